# SPDX-License-Identifier: MPL-2.0
"""The verdict over one GPU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.gpu.health import Cause, HealthPolicy, Judge
from nomad_nvidia_vgpu.gpu.model import HEALTHY, Signals, XidEvent
from unit.example_gpus import gpu, mig

PERIOD_S = 60.0
POLICY = HealthPolicy(recovery_period_s=PERIOD_S)
A = gpu("GPU-a")
GOOD = Signals(recovery_action=0, row_remap_failed=False)
SOFT = Cause(Problem("GPU-a: odd"), "a test")
GRAVE = Cause(Problem("GPU-a: lost"), "a test", grave=True)
WHOLE = XidEvent("GPU-p", 48)
MIG_1 = mig("MIG-1", gpu_instance_id=1, compute_instance_id=0)
MIG_1B = mig("MIG-1b", gpu_instance_id=1, compute_instance_id=1)
MIG_2 = mig("MIG-2", gpu_instance_id=2, compute_instance_id=0)
PARTS = (MIG_1, MIG_1B, MIG_2)


def look_well(judge: Judge, *times: float) -> None:
    """Tells of a good look at each of these times."""
    for now in times:
        judge.looked("GPU-a", GOOD, now, PARTS)


def sick(judge: Judge) -> list[str]:
    """Gives the MIG devices that cannot be used."""
    return [g.uuid for g in (MIG_1, MIG_1B, MIG_2) if not judge.health(g).healthy]


def test_a_gpu_is_healthy_until_told_otherwise() -> None:
    """Nothing is held against a GPU of which nothing is known, or only good."""
    judge = Judge(POLICY)
    assert judge.health(A) == HEALTHY
    look_well(judge, 0.0)
    judge.looked("GPU-a", Signals(), 1.0)
    assert judge.health(A) == HEALTHY
    assert not judge.waiting


def test_a_failed_look_is_a_bad_signal() -> None:
    """A GPU whose look failed is unhealthy with that cause's text and graveness."""
    judge = Judge(POLICY)
    judge.failed(GRAVE, 0.0)
    assert judge.health(A) == (False, "GPU-a: lost", True)
    assert judge.causes() == {"": GRAVE}


@pytest.mark.parametrize(
    ("action", "remedy"),
    [(1, "reset"), (2, "reboot"), (3, "reset"), (4, "reset"), (6, "reset"), (7, "reboot")],
)
def test_a_recovery_action_is_a_bad_signal(action: int, remedy: str) -> None:
    """A GPU whose driver asks for an action is unhealthy, and its text says what to do."""
    judge = Judge(POLICY)
    judge.looked("GPU-a", Signals(recovery_action=action), 0.0)
    assert judge.health(A).reason.startswith("GPU-a: the driver asks ")
    assert judge.health(A).reason.partition(": drain the node")[2].find(remedy) > 0
    assert judge.health(A).grave


@pytest.mark.parametrize("action", [8, 255])
def test_an_unknown_recovery_action_is_bad(action: int) -> None:
    """An action that NVML has no name for yet makes a GPU unhealthy and is told by its number."""
    judge = Judge(POLICY)
    judge.looked("GPU-a", Signals(recovery_action=action), 0.0)
    assert f"recovery action {action}" in judge.health(A).reason


def test_a_failed_row_remapping_is_a_bad_signal() -> None:
    """A GPU with memory that cannot be replaced is unhealthy until the GPU is replaced."""
    judge = Judge(POLICY)
    judge.looked("GPU-a", Signals(row_remap_failed=True), 0.0)
    assert judge.health(A).reason.endswith("replace the GPU")
    assert not judge.health(A).grave


def test_an_xid_is_a_bad_signal() -> None:
    """A GPU on which a fatal XID happened is unhealthy, and its text has the number."""
    judge = Judge(POLICY)
    assert judge.happened(XidEvent("GPU-a", 79), 0.0)
    assert judge.health(A).reason.startswith("GPU-a: XID 79 (fell off the bus): ")
    assert judge.health(A).grave


def test_an_applications_xid_is_none() -> None:
    """An XID that is an application's fault leaves the GPU healthy."""
    judge = Judge(POLICY)
    assert not judge.happened(XidEvent("GPU-a", 13), 0.0)
    assert judge.health(A) == HEALTHY


def test_the_operator_decides_on_xids() -> None:
    """The operator's lists win over what is built in."""
    judge = Judge(HealthPolicy(frozenset({13}), frozenset({79})))
    assert not judge.happened(XidEvent("GPU-a", 79), 0.0)
    assert judge.happened(XidEvent("GPU-a", 13), 0.0)


def test_a_gpu_is_back_after_the_recovery_period() -> None:
    """Good looks bring a GPU back when the period is over, and not a moment before."""
    judge = Judge(POLICY)
    judge.failed(GRAVE, 100.0)
    look_well(judge, 110.0, 120.0, 159.9)
    assert not judge.health(A).healthy
    assert judge.waiting
    look_well(judge, 160.0)
    assert judge.health(A) == HEALTHY
    assert not judge.waiting


def test_one_good_look_is_not_enough() -> None:
    """However long ago the fault was, a GPU is back only after two good looks."""
    judge = Judge(POLICY)
    judge.failed(GRAVE, 100.0)
    look_well(judge, 9999.0)
    assert not judge.health(A).healthy
    look_well(judge, 9999.0)
    assert judge.health(A) == HEALTHY


@pytest.mark.parametrize("again", ["a look", "a signal", "an XID"])
def test_a_bad_signal_starts_the_period_anew(again: str) -> None:
    """Whatever turns bad during the recovery period, the period and the looks begin again."""
    judge = Judge(POLICY)
    judge.failed(SOFT, 0.0)
    look_well(judge, 30.0, 50.0)
    if again == "a look":
        judge.failed(SOFT, 59.0)
    elif again == "a signal":
        judge.looked("GPU-a", Signals(recovery_action=1), 59.0)
    else:
        judge.happened(XidEvent("GPU-a", 48), 59.0)
    look_well(judge, 60.0, 118.0)
    assert not judge.health(A).healthy
    look_well(judge, 119.0)
    assert judge.health(A) == HEALTHY


def test_the_text_stays_that_of_the_first_cause() -> None:
    """Other causes no graver than the first do not change what is published."""
    judge = Judge(POLICY)
    judge.failed(GRAVE, 0.0)
    judge.failed(SOFT, 1.0)
    judge.happened(XidEvent("GPU-a", 79), 2.0)
    assert judge.cause() == GRAVE


def test_a_graver_cause_takes_over() -> None:
    """A cause that needs a reset replaces one that does not."""
    judge = Judge(POLICY)
    judge.failed(SOFT, 0.0)
    judge.failed(GRAVE, 1.0)
    assert judge.cause() == GRAVE


def test_the_next_fault_after_a_recovery_has_its_own_text() -> None:
    """A cause is forgotten with the recovery."""
    judge = Judge(POLICY)
    judge.failed(GRAVE, 0.0)
    look_well(judge, 60.0, 61.0)
    judge.failed(SOFT, 62.0)
    assert judge.cause() == SOFT


@pytest.mark.parametrize(
    ("event", "concerned"),
    [
        (WHOLE, ["MIG-1", "MIG-1b", "MIG-2"]),
        (WHOLE._replace(gpu_instance=1), ["MIG-1", "MIG-1b"]),
        (WHOLE._replace(gpu_instance=1, compute_instance=1), ["MIG-1b"]),
        (WHOLE._replace(gpu_instance=2, compute_instance=0), ["MIG-2"]),
        (WHOLE._replace(gpu_instance=3), ["MIG-1", "MIG-1b", "MIG-2"]),
        (WHOLE._replace(gpu_instance=1, compute_instance=3), ["MIG-1", "MIG-1b", "MIG-2"]),
        (WHOLE._replace(xid=79, gpu_instance=1), ["MIG-1", "MIG-1b", "MIG-2"]),
    ],
)
def test_an_event_concerns_the_instance_it_names(event: XidEvent, concerned: list[str]) -> None:
    """An XID is that of the MIG devices in its instances, or of all if it means none, or the bus."""
    judge = Judge(POLICY)
    judge.happened(event, 0.0, PARTS)
    assert sick(judge) == concerned


def test_an_event_in_an_instance_leaves_the_gpu_as_a_whole() -> None:
    """The physical GPU has no cause for what happened in one MIG device."""
    judge = Judge(POLICY)
    judge.happened(WHOLE._replace(gpu_instance=1), 0.0, PARTS)
    assert judge.cause() is None
    assert list(judge.causes()) == [" GPU instance 1"]
    assert judge.waiting


def test_an_instance_recovers_by_the_looks_at_its_gpu() -> None:
    """What is known of a MIG device is forgotten when the period is over."""
    judge = Judge(POLICY)
    judge.happened(WHOLE._replace(gpu_instance=1), 0.0, PARTS)
    look_well(judge, 30.0, 60.0)
    assert sick(judge) == []
    assert judge.causes() == {}
    assert not judge.waiting


def look_on(judge: Judge, signals: Signals, *times: float) -> None:
    """Tells of a look with these signals at each of these times."""
    for now in times:
        judge.looked("GPU-p", signals, now, PARTS)


UNTOLD = Signals(energy_mj=500)
"""Of a driver that has no recovery action."""


@pytest.mark.parametrize("xid", [48, 79, 95, 109, 119])
def test_a_fault_that_needs_a_reset_does_not_heal_by_silence(xid: int) -> None:
    """Without a word of the driver, an XID that asks for a reset or a reboot stays."""
    judge = Judge(POLICY)
    look_on(judge, UNTOLD, 0.0)
    judge.happened(XidEvent("GPU-p", xid), 1.0)
    look_on(judge, UNTOLD, 70.0, 700.0, 7000.0)
    assert not judge.health(A).healthy


def test_a_fault_that_needs_no_reset_heals_by_silence() -> None:
    """An XID that nobody has described stays for the recovery period."""
    judge = Judge(POLICY)
    judge.happened(XidEvent("GPU-p", 777), 0.0)
    look_on(judge, UNTOLD, 30.0, 70.0)
    assert judge.health(A).healthy


@pytest.mark.parametrize("seen", ["the energy", "the action", "the GPU", "the driver"])
def test_a_reset_that_is_seen_ends_the_fault(seen: str) -> None:
    """The recovery period begins with a reset: by the driver, its counters, or what was away."""
    judge = Judge(POLICY)
    look_on(judge, UNTOLD, 0.0)
    judge.happened(XidEvent("GPU-p", 48), 1.0)
    look_on(judge, UNTOLD, 100.0, 200.0)
    assert not judge.health(A).healthy
    if seen == "the energy":
        look_on(judge, Signals(energy_mj=3), 300.0, 400.0)
    elif seen == "the action":
        look_on(judge, Signals(recovery_action=0), 300.0, 400.0)
    elif seen == "the GPU":
        judge.failed(GRAVE, 300.0, away=True)
    else:
        judge.failed(Cause(Problem("no driver"), "the driver"), 300.0, away=True)
    look_on(judge, UNTOLD, 500.0, 600.0)
    assert judge.health(A).healthy


def test_a_hang_is_no_reset() -> None:
    """A GPU that did not answer for a while has not been reset by that."""
    judge = Judge(POLICY)
    judge.happened(XidEvent("GPU-p", 48), 1.0)
    judge.failed(SOFT, 2.0)
    look_on(judge, UNTOLD, 100.0, 200.0)
    assert not judge.health(A).healthy


def test_a_mig_device_that_is_made_again_is_well() -> None:
    """The fault of a MIG device ends with it: another one in its place has none."""
    judge = Judge(POLICY)
    judge.happened(WHOLE._replace(gpu_instance=2), 0.0, PARTS)
    look_on(judge, UNTOLD, 100.0, 200.0)
    assert sick(judge) == ["MIG-2"]
    judge.looked("GPU-p", UNTOLD, 300.0, (MIG_1, MIG_1B, MIG_2._replace(uuid="MIG-new")))
    assert sick(judge) == []


SIGNALS = st.builds(Signals, st.none() | st.integers(0, 9), st.sampled_from([None, False, True]))
EVENTS = st.builds(
    XidEvent,
    st.just("GPU-p"),
    st.integers(-1, 1000),
    st.none() | st.integers(0, 2),
    st.none() | st.integers(0, 1),
)
CAUSES = st.sampled_from([SOFT, GRAVE])
STEPS = st.tuples(st.sampled_from([0.0, 1.0, 29.0, 61.0]), SIGNALS | EVENTS | CAUSES)


@given(st.lists(STEPS, max_size=30))
def test_nothing_is_healthy_within_the_recovery_period(
    history: list[tuple[float, Signals | XidEvent | Cause]],
) -> None:
    """Whatever happens, no GPU is healthy sooner than the recovery period after a bad signal."""
    judge = Judge(POLICY)
    now = bad_at = -1e9
    now = 0.0
    for wait_s, step in history:
        now += wait_s
        if isinstance(step, Cause):
            judge.failed(step, now)
            bad_at = now
        elif isinstance(step, XidEvent):
            if judge.happened(step, now, PARTS) and step.gpu_instance is None:
                bad_at = now
        else:
            judge.looked("GPU-p", step, now)
            if step.recovery_action or step.row_remap_failed:
                bad_at = now
        for card in (A, MIG_1, MIG_1B, MIG_2):
            verdict = judge.health(card)
            assert not (verdict.healthy and now - bad_at < PERIOD_S)
            assert verdict.healthy == (verdict.reason == "")
