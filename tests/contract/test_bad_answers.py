# SPDX-License-Identifier: MPL-2.0
"""Answers that no driver should give, and the little that must come of them."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import pytest
from libnvidia_ml.driver import FakeDriver

from nomad_nvidia_vgpu.rpc.client import Stream

from .conftest import PATIENCE_S, Start, fact
from .fingerprints import Groups, healthy, reasons, until

XID = 0x8


def eventually(true: Callable[[], bool]) -> None:
    """Waits until something holds that no stream tells of."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)  # between two looks at another process's log


def after_two_looks(node: FakeDriver) -> None:
    """Waits until each GPU has been asked for its name twice from now on."""
    before = node.calls()["nvmlDeviceGetName"]
    eventually(lambda: node.calls()["nvmlDeviceGetName"] >= before + 3 * 8)


def next_change(node: FakeDriver, stream: Stream[Groups]) -> Groups:
    """What is said when another GPU is lost: it shows that nothing was said before."""
    node.set("gpu 7", "lost", 1)
    return until(stream, 7)


@pytest.mark.parametrize("code", [2, 3, 999])
def test_a_call_that_fails_once_changes_nothing(node: FakeDriver, start: Start, code: int) -> None:
    """What cannot change is remembered: no id vanishes and no GPU changes its group."""
    node.load("h100x8")
    host = start(node, vgpu_memory="10GiB")
    stream = host.fingerprints()
    before = until(stream, 8)
    for gpu in range(7):
        for getter in ("MemoryInfo", "Name", "CudaComputeCapability", "Architecture"):
            node.fail_once(f"gpu {gpu}", f"nvmlDeviceGet{getter}", code)
    after_two_looks(node)
    during = next_change(node, stream)
    assert [(g.name, [i.id for i in g.instances]) for g in during] == [
        (g.name, [i.id for i in g.instances]) for g in before
    ]
    assert not any("bug" in line.message for line in host.logs)


def test_a_getter_that_calls_its_argument_invalid_costs_its_value(
    node: FakeDriver, start: Start
) -> None:
    """No GPU is taken away, and one line names the call."""
    node.load("h100x8")
    for getter in ("MaxClockInfo", "DisplayMode", "BAR1MemoryInfo", "MigMode", "Index"):
        node.set("driver", f"fault.nvmlDeviceGet{getter}", 2)
    host = start(node, vgpus=1)
    (group,) = until(host.fingerprints(), 8)
    assert "memory" in group.attributes
    assert not {"cores_clock", "bar1", "display_state"} & group.attributes.keys()
    named = host.logged_in_all("info", "nvmlDeviceGetMaxClockInfo")
    assert len(named) == 1


def test_figures_that_cannot_be_are_left_out(node: FakeDriver, start: Start) -> None:
    """Garbage with success is no figure, and no bug of ours."""
    node.load("h100x8")
    for gpu in range(8):
        node.set(f"gpu {gpu}", "max_sm_clock_mhz", 2**32 - 1)
        node.set(f"gpu {gpu}", "compute_capability", "4294967295.4294967295")
        node.set(f"gpu {gpu}", "memory_total_mib", 2**43)
    host = start(node, vgpus=2)
    (group,) = until(host.fingerprints(), 8)
    assert not {"cores_clock", "memory", "vgpu_memory", "cuda_compute_capability"} & (
        group.attributes.keys()
    )
    assert not any("bug" in line.message for line in host.logs)


@pytest.mark.parametrize("count", [100_000, 2**31 - 1])
def test_a_count_that_cannot_be_costs_a_warning(node: FakeDriver, start: Start, count: int) -> None:
    """The GPUs that there are are offered, and no thread is made for the others."""
    node.load("h100x8")
    host = start(node, vgpus=1)
    stream = host.fingerprints()
    until(stream, 8)
    node.set("driver", "count", count)
    eventually(lambda: any(f"counts {count} GPUs" in m for m in host.logged("warn")))
    process = psutil.Process(host.plugin.process.pid)
    eventually(lambda: process.num_threads() < 40)
    assert len(healthy(next_change(node, stream))) == 8


def test_a_count_that_fails_accuses_no_gpu(node: FakeDriver, start: Start) -> None:
    """GPUs that are known speak for themselves; the log has NVML's sentence, once."""
    node.load("h100x8")
    host = start(node, vgpus=1)
    stream = host.fingerprints()
    until(stream, 8)
    node.set("driver", "fault.nvmlDeviceGetCount_v2", 999)
    eventually(lambda: any("cannot be counted" in m for m in host.logged("warn")))
    assert sum(healthy(next_change(node, stream)).values()) == 7
    assert not any("bug" in line.message for line in host.logs)


def test_two_gpus_with_one_uuid_are_one(node: FakeDriver, start: Start) -> None:
    """The one with the lower index is offered, and the log says why the other is not."""
    node.load("h100x8")
    node.set("gpu 5", "uuid", fact(node, "gpu 1", "uuid"))
    host = start(node, vgpus=1)
    until(host.fingerprints(), 7)
    (line,) = host.logged_in_all("warn", "has the UUID of")
    assert "GPU 5 has the UUID of GPU 1" in line


def test_a_driver_without_gpus_is_said_so(node: FakeDriver, start: Start) -> None:
    """One sentence, because a node that has none and one whose GPUs are gone look the same."""
    node.load("none")
    host = start(node, vgpus=1)
    assert host.fingerprints().next_within(PATIENCE_S) == ()
    assert len(host.logged_in_all("warn", "lists no GPU")) == 1


@pytest.mark.parametrize(("xid", "gi", "ci"), [(48, 5, 0), (95, 1, 3), (79, 1, 0), (119, 5, 5)])
def test_a_fault_of_an_instance_that_nobody_knows_takes_the_gpu(
    node: FakeDriver, start: Start, xid: int, gi: int, ci: int
) -> None:
    """As does one of the bus, whichever instance it names."""
    node.load("a100_mig")
    host = start(node, vgpus=1, health={"recovery_period": "1h"})
    stream = host.fingerprints()
    until(stream, 3)
    eventually(lambda: len(node.listened_to()) == 2)
    node.push_event(0, XID, xid, gi, ci)
    during = until(stream, 1)
    assert any(f"XID {xid} (" in reason for reason in reasons(during))


def test_a_fault_that_only_a_reset_heals_stays_until_one_is_seen(
    node: FakeDriver, start: Start
) -> None:
    """A driver that has no recovery action says nothing: its count of energy tells of a reset."""
    node.load("h100x8")
    node.clear("gpu 2", "recovery_action")
    host = start(node, vgpus=1)
    stream = host.fingerprints()
    until(stream, 8)
    eventually(lambda: len(node.listened_to()) == 8)
    node.push_event(2, XID, 48)
    until(stream, 7)
    after_two_looks(node)
    node.set("gpu 3", "lost", 1)
    assert healthy(until(stream, 6))[fact(node, "gpu 2", "uuid")] is False
    node.clear("gpu 3", "lost")
    until(stream, 7)
    node.set("gpu 2", "energy_mj", 1)
    until(stream, 8)
