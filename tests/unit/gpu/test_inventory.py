# SPDX-License-Identifier: MPL-2.0
"""From what each GPU answered to the inventory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.gpu.health import GONE, Cause, HealthPolicy
from nomad_nvidia_vgpu.gpu.inventory import Stock
from nomad_nvidia_vgpu.gpu.model import Inventory, Look, XidEvent
from unit.example_gpus import gpu, inventory, look, mig

A, B, P = gpu("GPU-a"), gpu("GPU-b"), gpu("GPU-p")
MIG_1 = mig("MIG-1", gpu_instance_id=1, compute_instance_id=0)
MIG_2 = mig("MIG-2", gpu_instance_id=2, compute_instance_id=0)
IN_MIG_MODE = Look("GPU-p", (MIG_1, MIG_2))
LOST = Cause(Problem("lost"), "a test", grave=True)
RESET_ME = Cause(Problem("reset me"), "a test", grave=True)


def stock(*answers: Look | tuple[str, Cause], recovery_s: float = 0.0) -> Stock:
    """Gives a stock after one round of looks that found these."""
    made = Stock(HealthPolicy(recovery_period_s=recovery_s))
    take(made, *answers)
    return made


def take(into: Stock, *answers: Look | tuple[str, Cause], now: float = 0.0) -> None:
    """Tells a stock what one round of looks found: GPUs that answer, and UUIDs that fail."""
    for answer in answers:
        if isinstance(answer, Look):
            into.looked(answer, now)
        else:
            into.failed(*answer, now)


def reasons(of: Stock) -> dict[str, str]:
    """Gives why each GPU cannot be used, by UUID; empty where it can."""
    return {seen.gpu.uuid: seen.health.reason for seen in of.inventory().gpus}


def test_gpus_that_answer_are_healthy() -> None:
    """Every GPU that answered is there and healthy, ordered by UUID."""
    assert stock(look(B), look(A)).inventory() == inventory(A, B)


def test_a_gpu_that_has_not_answered_is_not_there_yet() -> None:
    """A GPU that has said nothing so far is not in the inventory."""
    assert stock(look(A)).inventory() == inventory(A)


def test_a_gpu_that_never_said_who_it_is_stays_out() -> None:
    """A GPU that has only ever failed has no identity to publish."""
    node = stock()
    node.nameless(0, LOST)
    assert node.inventory() == Inventory()
    assert node.unsettled


def test_a_failing_gpu_stays_with_its_last_facts() -> None:
    """A GPU that fails after it was seen stays, unhealthy with the reason."""
    node = stock(look(A), look(B))
    take(node, ("GPU-a", LOST), look(B))
    assert reasons(node) == {"GPU-a": "lost", "GPU-b": ""}
    assert [seen.gpu for seen in node.inventory().gpus] == [A, B]
    assert node.inventory().gpus[0].health.grave


def test_new_facts_replace_old_ones() -> None:
    """A GPU whose facts changed is there with the new ones alone."""
    node = stock(look(A))
    changed = gpu("GPU-a", power_limit_w=50)
    take(node, look(changed))
    assert node.inventory() == inventory(changed)


def test_a_destroyed_mig_device_leaves() -> None:
    """A MIG device whose GPU answers without it has been destroyed on purpose."""
    node = stock(IN_MIG_MODE)
    take(node, Look("GPU-p", (MIG_1,)))
    assert node.inventory() == inventory(MIG_1)


def test_mig_devices_of_a_failing_gpu_stay() -> None:
    """While the GPU of MIG devices fails, they stay and are unhealthy for its reason."""
    node = stock(IN_MIG_MODE)
    take(node, ("GPU-p", LOST))
    assert reasons(node) == {"MIG-1": "lost", "MIG-2": "lost"}


def test_a_gpu_cut_into_mig_devices_leaves() -> None:
    """A GPU that was put into MIG mode is replaced by its devices."""
    node = stock(look(A), look(P))
    take(node, look(A), IN_MIG_MODE)
    assert node.inventory() == inventory(A, MIG_1, MIG_2)


def test_a_gpu_taken_out_of_mig_mode_returns() -> None:
    """A GPU that left MIG mode replaces its devices."""
    node = stock(IN_MIG_MODE)
    take(node, look(P))
    assert node.inventory() == inventory(P)


def test_a_gpu_cut_into_nothing_leaves() -> None:
    """A GPU in MIG mode without devices publishes nothing."""
    node = stock(look(P))
    take(node, Look("GPU-p", ()))
    assert node.inventory() == Inventory()


def test_a_gpu_that_is_listed_no_more_stays() -> None:
    """A GPU gone from all indexes stays, unhealthy, with what to do."""
    node = stock(look(A), look(B))
    node.gone("GPU-b", 0.0)
    assert reasons(node) == {"GPU-a": "", "GPU-b": f"GPU-b: {GONE}"}


def test_mig_devices_of_a_gpu_that_is_listed_no_more_stay() -> None:
    """MIG devices whose GPU is gone from all indexes stay, unhealthy."""
    node = stock(look(A), Look("GPU-p", (MIG_1,)))
    node.gone("GPU-p", 0.0)
    assert reasons(node) == {"GPU-a": "", "MIG-1": f"GPU-p: {GONE}"}


def test_a_gpu_that_returns_is_healthy_after_two_good_looks() -> None:
    """A GPU that was gone and answers again is as healthy as before, once it has done so twice."""
    node = stock(look(A), look(B))
    node.gone("GPU-b", 0.0)
    take(node, look(A), look(B))
    assert reasons(node)["GPU-b"] == f"GPU-b: {GONE}"
    take(node, look(A), look(B))
    assert node.inventory() == inventory(A, B)


def test_a_gpu_that_fails_is_back_after_the_recovery_period() -> None:
    """However often a GPU answers, it stays unhealthy until the recovery period is over."""
    node = stock(look(A), recovery_s=60.0)
    take(node, ("GPU-a", LOST), now=100.0)
    for now in (101.0, 130.0, 159.9):
        take(node, look(A), now=now)
        assert reasons(node) == {"GPU-a": "lost"}
    take(node, look(A), now=160.0)
    assert node.inventory() == inventory(A)


def test_a_driver_problem_holds_for_every_gpu() -> None:
    """When the driver as a whole fails, each GPU has that reason."""
    node = stock(look(A), IN_MIG_MODE)
    node.driver_failed(Problem("no driver"), 0.0)
    assert set(reasons(node).values()) == {"no driver"}
    assert list(node.causes()) == ["the GPUs of this node"]


def test_gpus_return_with_the_driver() -> None:
    """GPUs that failed with the driver are back after two good looks."""
    node = stock(look(A))
    node.driver_failed(Problem("no driver"), 0.0)
    node.driver_works()
    for _ in range(2):
        take(node, look(A))
    assert node.inventory() == inventory(A)
    assert node.causes() == {}


def test_an_event_concerns_its_gpu_alone() -> None:
    """An XID makes the GPU that it names unhealthy, and no other."""
    node = stock(look(A), look(B))
    assert node.happened(XidEvent("GPU-b", 79), 0.0)
    assert reasons(node)["GPU-a"] == ""
    assert reasons(node)["GPU-b"].startswith("GPU-b: XID 79 ")


def test_an_event_in_a_mig_device_concerns_it_alone() -> None:
    """An XID in one MIG device leaves its neighbours healthy."""
    node = stock(IN_MIG_MODE)
    assert node.happened(XidEvent("GPU-p", 48, 2, 0), 0.0)
    assert [seen.health.healthy for seen in node.inventory().gpus] == [True, False]


def test_an_event_of_a_gpu_that_nobody_knows_is_nothing() -> None:
    """An XID of a GPU that was never seen makes none unhealthy."""
    node = stock(look(A))
    assert not node.happened(XidEvent("GPU-x", 79), 0.0)
    assert node.inventory() == inventory(A)


@pytest.mark.parametrize(
    ("gpu_instance", "compute_instance", "sick"),
    [(2, 0, ["MIG-2"]), (5, 0, ["MIG-1", "MIG-2"]), (1, 3, ["MIG-1", "MIG-2"])],
)
def test_an_event_in_an_instance_that_is_not_published_is_the_gpus(
    gpu_instance: int, compute_instance: int, sick: list[str]
) -> None:
    """No fault is lost because an event names what nobody knows: then it is the whole GPU's."""
    node = stock(IN_MIG_MODE)
    assert node.happened(XidEvent("GPU-p", 95, gpu_instance, compute_instance), 0.0)
    assert [uuid for uuid, why in reasons(node).items() if why] == sick


def test_an_event_in_an_instance_of_a_gpu_without_mig_is_the_gpus() -> None:
    """Some libraries name instance 0 where there is none."""
    node = stock(look(A))
    assert node.happened(XidEvent("GPU-a", 119, 0, 0), 0.0)
    assert reasons(node)["GPU-a"].startswith("GPU-a: XID 119 ")


def test_the_log_names_a_gpu_that_has_no_uuid_by_its_index() -> None:
    """A GPU that never said who it is has its causes under its index, until it says so."""
    node = stock(look(A))
    node.nameless(1, LOST)
    assert node.causes() == {"GPU 1": LOST}
    node.listed(1)
    assert node.causes() == {}


def test_what_is_bad_or_coming_back_is_waited_for() -> None:
    """A GPU is waited for while it is unknown or on its way back, and no longer."""
    node = stock()
    assert node.waiting("GPU-a")
    take(node, look(A))
    assert not node.waiting("GPU-a")
    take(node, ("GPU-a", LOST))
    take(node, look(A))
    assert node.waiting("GPU-a")
    assert node.unsettled
    assert list(node.nearly_good(0.0)) == ["GPU-a"]
    take(node, look(A))
    assert not node.waiting("GPU-a")
    assert not node.unsettled


ANSWERS = st.sampled_from(
    [
        *(look(A), look(B), look(P), IN_MIG_MODE, Look("GPU-p", ())),
        *(("GPU-a", LOST), ("GPU-b", RESET_ME), ("GPU-p", LOST)),
    ]
)


@given(
    st.lists(st.lists(ANSWERS, max_size=4) | st.sampled_from(["no driver", "GPU-b"]), max_size=5)
)
def test_no_physical_gpu_is_ever_lost(
    history: list[list[Look | tuple[str, Cause]] | str],
) -> None:
    """Whatever happens, a GPU once seen is accounted for: there, or replaced by its MIG devices."""
    node = stock()
    for step in history:
        before = node.inventory()
        if step == "GPU-b":
            node.gone(step, 0.0)
        elif isinstance(step, str):
            node.driver_failed(Problem(step), 0.0)
        else:
            take(node, *step)
        now = node.inventory()
        uuids = [seen.gpu.uuid for seen in now.gpus]
        assert uuids == sorted(set(uuids))
        answered = {a.physical_uuid for a in step if isinstance(a, Look)}
        for seen in before.gpus:
            assert seen.gpu.uuid in uuids or (seen.gpu.parent_uuid or seen.gpu.uuid) in answered
        assert all(seen.health.healthy == (seen.health.reason == "") for seen in now.gpus)
