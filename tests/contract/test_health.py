# SPDX-License-Identifier: MPL-2.0
"""Faults of GPUs and drivers, switched on and off under the installed program.

`docs/health.md` names the test of each row of its fault table.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from libnvidia_ml.driver import FakeDriver

from .conftest import PATIENCE_S, Start, Started, fact
from .fingerprints import Groups, first_in, healthy, reasons, silent, until

XID = 0x8
GPU_IS_LOST = 15

INIT_ERRORS = sorted({*range(1, 30), 999} - {12, 28})
"""NVML's codes; without 12, for which the loader is asked (no library), and 28 (no GPU), which a
start that is told not to mind never answers."""


def eventually(true: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    """Waits until something holds that no stream tells of; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)  # between two looks at another process's log


def listening(node: FakeDriver, gpus: int) -> None:
    """Waits until the plugin waits for the events of so many GPUs."""
    eventually(lambda: len(node.listened_to()) == gpus)


@contextmanager
def no_look_returns(node: FakeDriver, gpu: int) -> Iterator[None]:
    """Within it, what an event says of this GPU lasts, however late somebody reads it."""
    node.set(f"gpu {gpu}", "hang.nvmlDeviceGetName", "1")
    try:
        yield
    finally:
        node.clear(f"gpu {gpu}", "hang.nvmlDeviceGetName")


def eight(node: FakeDriver, start: Start, **config: object) -> Started:
    """The plugin on eight healthy H100, listening to their events."""
    node.load("h100x8")
    return start(node, vgpus=2, **config)


@pytest.mark.parametrize(
    ("xid", "remedy"),
    [(46, "reset the GPU"), (79, "reboot"), (54, "power"), (74, "NVLink"), (48, "ECC")],
)
def test_an_xid_of_the_gpu_takes_it_away_with_cause_and_remedy(
    node: FakeDriver, start: Start, xid: int, remedy: str
) -> None:
    """All its vGPUs and no other's; the way back comes when nothing is wrong any more."""
    host = eight(node, start)
    stream = host.fingerprints()
    until(stream, 8)
    listening(node, 8)
    with no_look_returns(node, 5):
        node.push_event(5, XID, xid)
        during = until(stream, 7)
    assert healthy(during)[fact(node, "gpu 5", "uuid")] is False
    (reason,) = reasons(during)
    assert f"XID {xid} (" in reason
    assert remedy in reason
    until(stream, 8)
    (line,) = host.logged_in_all("warn", "cannot be used")
    assert f"says XID {xid}" in line


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 94, 63, 92, 154])
def test_an_application_s_error_or_a_notice_takes_no_gpu_away(
    node: FakeDriver, start: Start, xid: int
) -> None:
    """NVIDIA's own Kubernetes plugin takes the GPU for some of these, and for good."""
    host = eight(node, start)
    stream = host.fingerprints()
    until(stream, 8)
    listening(node, 8)
    node.push_event(2, XID, xid)
    eventually(lambda: any(f"XID {xid} " in m for m in host.logged("info")))
    node.set("gpu 3", "lost", "1")  # what comes next shows that nothing came before
    assert healthy(until(stream, 7))[fact(node, "gpu 2", "uuid")] is True


def test_an_xid_that_nobody_knows_takes_the_gpu_away_until_all_is_good(
    node: FakeDriver, start: Start
) -> None:
    """Better idle for a minute than a task on a broken GPU."""
    host = eight(node, start)
    stream = host.fingerprints()
    until(stream, 8)
    listening(node, 8)
    with no_look_returns(node, 0):
        node.push_event(0, XID, 777)
        assert any("XID 777" in reason for reason in reasons(until(stream, 7)))
    until(stream, 8)


def test_the_operators_lists_win_over_the_catalogue(node: FakeDriver, start: Start) -> None:
    """`fatal_xids` adds, `ignored_xids` takes away."""
    health = {"fatal_xids": [31], "ignored_xids": [79], "recovery_period": "1h"}
    host = eight(node, start, health=health)
    stream = host.fingerprints()
    until(stream, 8)
    listening(node, 8)
    node.push_event(1, XID, 79)
    eventually(lambda: any("XID 79 " in m for m in host.logged("info")))
    node.push_event(2, XID, 31)
    during = healthy(until(stream, 7))
    assert during[fact(node, "gpu 1", "uuid")] is True
    assert during[fact(node, "gpu 2", "uuid")] is False


def test_a_fault_of_a_mig_instance_takes_that_instance_alone(
    node: FakeDriver, start: Start
) -> None:
    """NVIDIA's Kubernetes plugin can mark its sibling instead."""
    node.load("a100_mig")
    host = start(node, vgpus=1, health={"recovery_period": "1h"})
    stream = host.fingerprints()
    until(stream, 3)
    listening(node, 2)
    section = "mig 0.2"
    gi, ci = int(fact(node, section, "gi")), int(fact(node, section, "ci"))
    node.push_event(0, XID, 95, gi, ci)
    during = healthy(until(stream, 2))
    assert [uuid for uuid, good in during.items() if not good] == [fact(node, section, "uuid")]


def test_a_fault_of_a_whole_gpu_takes_all_its_mig_devices(node: FakeDriver, start: Start) -> None:
    """An event without an instance concerns every one."""
    node.load("a100_mig")
    host = start(node, vgpus=1, health={"recovery_period": "1h"})
    stream = host.fingerprints()
    until(stream, 3)
    listening(node, 2)
    node.push_event(0, XID, 119)
    during = healthy(until(stream, 1))
    assert {uuid for uuid, good in during.items() if not good} == {
        fact(node, "mig 0.0", "uuid"),
        fact(node, "mig 0.2", "uuid"),
    }


@pytest.mark.parametrize(("action", "remedy"), [(1, "reset the GPU"), (2, "reboot"), (99, "99")])
def test_the_drivers_recovery_action_decides(
    node: FakeDriver, start: Start, action: int, remedy: str
) -> None:
    """It is NVIDIA's own best single verdict, both ways; unknown actions count as bad."""
    host = eight(node, start)
    stream = host.fingerprints()
    until(stream, 8)
    node.set("gpu 4", "recovery_action", str(action))
    assert any(remedy in reason for reason in reasons(until(stream, 7)))
    node.set("gpu 4", "recovery_action", "0")
    until(stream, 8)


def test_a_lasting_fault_is_seen_by_a_plugin_that_starts_after_it(
    node: FakeDriver, start: Start
) -> None:
    """Events that came before we listened are never delivered; what lasts is read."""
    node.load("h100x8")
    node.set("gpu 6", "recovery_action", "1")
    first = until(start(node, vgpus=1).fingerprints(), 7)
    assert healthy(first)[fact(node, "gpu 6", "uuid")] is False


def test_a_row_that_cannot_be_replaced_takes_the_gpu_away(node: FakeDriver, start: Start) -> None:
    """A replacement that is only pending does not: the GPU stays usable until its next reset."""
    host = eight(node, start)
    stream = host.fingerprints()
    until(stream, 8)
    node.set("gpu 0", "remapped_rows", "0 1 1 0")
    node.set("gpu 1", "remapped_rows", "0 1 0 1")
    during = until(stream, 7)
    assert healthy(during)[fact(node, "gpu 0", "uuid")] is True
    assert any("cannot be replaced" in reason for reason in reasons(during))


def test_a_gpu_returns_only_after_the_recovery_period(node: FakeDriver, start: Start) -> None:
    """So that nothing flaps; meanwhile its text stays the same."""
    host = eight(node, start, health={"recovery_period": "2s"})
    stream = host.fingerprints()
    until(stream, 8)
    began = time.monotonic()  # before the last bad look, however late that one is
    node.set("gpu 3", "lost", "1")
    during = until(stream, 7)
    assert during[0].attributes["healthy_instances"].value == 14
    node.clear("gpu 3", "lost")

    def said(groups: Groups) -> set[tuple[bool, str]]:
        return {
            (i.healthy, i.health_description)
            for i in groups[0].instances
            if i.id.startswith(fact(node, "gpu 3", "uuid"))
        }

    after = first_in(stream, lambda groups: said(groups) != said(during))
    assert said(after) == {(True, "")}
    assert time.monotonic() - began >= 2.0


@pytest.mark.parametrize("code", INIT_ERRORS)
def test_whatever_keeps_the_driver_from_starting_is_named_and_retried(
    node: FakeDriver, start: Start, code: int
) -> None:
    """An empty set, one warning, and the GPUs as soon as it starts."""
    node.load("h100x8")
    node.set("driver", "init_error", str(code))
    host = start(node, vgpus=1)
    stream = host.fingerprints()
    assert next(stream) == ()
    node.clear("driver", "init_error")
    until(stream, 8)
    # On a busy machine other things may be said beside it, such as a GPU that answers late.
    assert len(host.logged_in_all("warn", f"({code})")) == 1


def test_a_library_that_appears_later_is_used(
    node: FakeDriver, start: Start, library: Path, tmp_path: Path
) -> None:
    """A node may get its driver after its agent."""
    empty = tmp_path / "later"
    empty.mkdir()
    node.load("h100x8")
    environment = {**os.environ, **node.environment(), "LD_LIBRARY_PATH": str(empty)}
    with Started(environment) as host:
        host.set_config({"vgpus": 1, "fingerprint_period": "100ms"})
        stream = host.fingerprints()
        assert next(stream) == ()
        shutil.copy(library / "libnvidia-ml.so.1", empty / "new")
        (empty / "new").rename(empty / "libnvidia-ml.so.1")
        until(stream, 8)


def test_a_replaced_library_makes_it_leave_once(
    node: FakeDriver, library: Path, tmp_path: Path
) -> None:
    """Only a new process can load it; Nomad starts one at once. That one waits, and never loops."""
    directory = tmp_path / "driver"
    shutil.copytree(library, directory)
    node.load("h100x8")
    environment = {**os.environ, **node.environment(), "LD_LIBRARY_PATH": str(directory)}
    config = {"vgpus": 1, "fingerprint_period": "100ms"}
    with Started(environment) as host:
        host.set_config(config)
        until(host.fingerprints(), 8)
        shutil.copy(library / "libnvidia-ml.so.1", directory / "new")
        (directory / "new").rename(directory / "libnvidia-ml.so.1")
        node.set("driver", "init_error", "18")  # concerns the next session
        node.set("driver", "fault.nvmlDeviceGetCount_v2", "18")
        assert host.plugin.process.wait(PATIENCE_S) == 0
        (said,) = host.logged_in_all("warn", "replaced")
        assert "loads the new library" in said
    with Started(environment) as host:
        host.set_config(config)
        stream = host.fingerprints()
        assert next(stream) == ()
        assert silent(stream, (), 1.0)
        assert host.plugin.process.poll() is None


def test_a_version_mismatch_alone_does_not_make_it_leave(node: FakeDriver, start: Start) -> None:
    """With the same file on disk a new process would be no better off."""
    host = eight(node, start)
    stream = host.fingerprints()
    until(stream, 8)
    node.set("driver", "init_error", "18")  # concerns the next session
    node.set("driver", "fault.nvmlDeviceGetCount_v2", "18")
    assert all("upgraded in place" in reason for reason in reasons(until(stream, 0)))
    node.clear("driver", "fault.nvmlDeviceGetCount_v2")
    node.clear("driver", "init_error")
    until(stream, 8)
    assert host.plugin.process.poll() is None


def test_a_gpu_that_is_added_is_offered(node: FakeDriver, start: Start) -> None:
    """Hot-plugged, or bound to the driver later."""
    node.load("h100x8")
    node.set("gpu 7", "removed", "1")
    stream = start(node, vgpus=1).fingerprints()
    until(stream, 7)
    node.clear("gpu 7", "removed")
    assert healthy(until(stream, 8))[fact(node, "gpu 7", "uuid")] is True


def test_a_gpu_that_is_removed_stays_unhealthy_and_the_others_keep_their_names(
    node: FakeDriver, start: Start
) -> None:
    """The indexes behind it shift; UUIDs do not."""
    stream = (host := eight(node, start)).fingerprints()
    until(stream, 8)
    gone = fact(node, "gpu 2", "uuid")
    node.set("gpu 2", "removed", "1")
    during = until(stream, 7)
    assert [uuid for uuid, good in healthy(during).items() if not good] == [gone]
    # A look that was under way when it left says that it is lost.
    (reason,) = reasons(during)
    assert "does not list this GPU" in reason or "lost" in reason
    node.clear("gpu 2", "removed")
    until(stream, 8)
    assert host.plugin.process.poll() is None


def test_mig_mode_switched_on_under_us_replaces_the_gpu_by_its_devices(
    node: FakeDriver, start: Start
) -> None:
    """And back again."""
    node.load("a100_mig")
    stream = start(node, vgpus=1).fingerprints()
    cut = healthy(until(stream, 3))
    assert sum(uuid.startswith("MIG-") for uuid in cut) == 2
    whole = {fact(node, f"gpu {index}", "uuid"): True for index in (0, 1)}
    # A look that was under way may have found some of both.
    node.set("gpu 0", "mig_mode", "0")
    first_in(stream, lambda groups: healthy(groups) == whole)
    node.set("gpu 0", "mig_mode", "1")
    first_in(stream, lambda groups: healthy(groups) == cut)


def test_waiting_that_fails_for_ever_does_not_spin(node: FakeDriver, start: Start) -> None:
    """Reported of NVML after XID 79: the wait returns at once, again and again."""
    host = eight(node, start, fingerprint_period="1s")
    stream = host.fingerprints()
    until(stream, 8)
    listening(node, 8)
    node.set("driver", "wait_error", str(GPU_IS_LOST))
    process = psutil.Process(host.plugin.process.pid)
    eventually(lambda: node.calls()["nvmlEventSetWait_v2"] > 1)
    node.forget_calls()
    used = sum(process.cpu_times()[:2])
    began = time.monotonic()
    eventually(lambda: time.monotonic() > began + 6)
    assert node.calls()["nvmlEventSetWait_v2"] <= 6
    # What eight GPUs cost each second is `make bench`'s business; a loop would take all there is.
    assert (sum(process.cpu_times()[:2]) - used) / (time.monotonic() - began) < 0.5


def test_an_event_of_a_gpu_that_is_lost_reaches_it(node: FakeDriver, start: Start) -> None:
    """A lost GPU does not tell its UUID any more; the event brings only its handle."""
    host = eight(node, start, fingerprint_period="1h")
    stream = host.fingerprints()
    until(stream, 8)
    listening(node, 8)
    node.set("gpu 3", "lost", "1")
    node.push_event(3, XID, 79)
    during = until(stream, 7)
    assert healthy(during)[fact(node, "gpu 3", "uuid")] is False


def test_one_gpu_that_blames_the_driver_takes_no_other_along(
    node: FakeDriver, start: Start
) -> None:
    """The driver as a whole is asked; when it works, the GPU is at fault, and nothing spins."""
    host = eight(node, start)
    stream = host.fingerprints()
    until(stream, 8)
    node.set("gpu 1", "fault.nvmlDeviceGetName", "9")
    during = until(stream, 7)
    assert healthy(during)[fact(node, "gpu 1", "uuid")] is False
    began = time.monotonic()
    node.forget_calls()
    eventually(lambda: time.monotonic() > began + 2)
    calls = node.calls()
    assert calls["nvmlDeviceGetCount_v2"] <= 1 + (time.monotonic() - began) / 0.1  # the period
    assert calls["nvmlInitWithFlags"] == 0
    node.clear("gpu 1", "fault.nvmlDeviceGetName")
    until(stream, 8)


def test_one_line_is_logged_for_each_change_of_cause(node: FakeDriver, start: Start) -> None:
    """A line per look would fill the disk by the time somebody reads it."""
    host = eight(node, start)
    stream = host.fingerprints()
    until(stream, 8)
    node.set("gpu 1", "lost", "1")
    until(stream, 7)
    looked = node.calls()["nvmlDeviceGetHandleByIndex_v2"]
    eventually(lambda: node.calls()["nvmlDeviceGetHandleByIndex_v2"] > looked + 80)
    node.clear("gpu 1", "lost")
    until(stream, 8)
    uuid = fact(node, "gpu 1", "uuid")
    assert len(host.logged_in_all("info", uuid)) == 1
    assert len([m for m in host.logged("warn") if uuid in m]) == 1
