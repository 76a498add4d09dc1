# SPDX-License-Identifier: MPL-2.0
"""The passes over who uses what."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.config.blocks import MemoryGuardConfig
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.gpu.model import GpuProcess
from nomad_nvidia_vgpu.sharing.plan import Plan
from nomad_nvidia_vgpu.state.catalog import Catalog, Listing
from nomad_nvidia_vgpu.state.usage import Task, TaskProcess, Usage
from nomad_nvidia_vgpu.tasks.accountant import Accountant, Tools
from nomad_nvidia_vgpu.tasks.attribution import Attributor
from nomad_nvidia_vgpu.tasks.guard import Guard
from unit.example_gpus import gpu, inventory
from unit.host.made_proc import MadeProc, nomad_v2
from unit.manual_clock import DEADLINE_S, ManualClock

QUICK_S = 1 / 256


def nobody(process: TaskProcess, task: Task) -> bool:  # pragma: no cover
    """Belongs to no task: nothing is ever ended here."""
    raise AssertionError((process, task))


class Node:
    """A catalog with one GPU that is used, and its accountant."""

    def __init__(self, root: Path) -> None:
        """No pass was made yet."""
        self.made = MadeProc(root)
        self.mps_root = str(root / "mps")
        self.made.add(20, cgroup=nomad_v2(), environment={"NVIDIA_VGPU_IDS": "GPU-a-0"})
        self.clock = ManualClock()
        self.catalog = Catalog(PluginConfig(vgpus=4), self.clock)
        self.catalog.take_inventory(inventory(gpu("GPU-a", memory_mib=4000)), complete=True)
        self.catalog.take_processes({"GPU-a": (GpuProcess(20, 3000, "compute"),)})
        self.guard = Guard(MemoryGuardConfig("warn", 2.0, 0), nobody)

    def accountant(self, attributor: Attributor | None = None) -> Accountant:
        """Gives who makes the passes."""
        tools = Tools(attributor or Attributor(self.made.proc, self.mps_root), self.guard)
        return Accountant(self.catalog, lambda: tools, QUICK_S)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Gives a node."""
    return Node(tmp_path)


def test_a_pass_reaches_the_catalog(node: Node) -> None:
    """What a pass finds is what all readers see."""
    node.accountant().look()
    (share,) = node.catalog.usage.shares
    assert (share.used_mib, share.vgpu_ids) == (3000, ("GPU-a-0",))
    assert node.catalog.usage.taken_at is not None


def test_a_pass_is_guarded(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """The guard looks at each pass, and what it did is in the catalog."""
    accountant = node.accountant()
    for _ in range(3):
        accountant.look()
        node.clock.advance(2.0)
        node.catalog.take_processes({"GPU-a": (GpuProcess(20, 3000, "compute"),)})
    assert any("uses 3000 MiB" in message for message in caplog.messages)
    assert node.catalog.guard_counts == {("warned", "GPU-a"): 1}


def test_the_last_use_of_a_gpu_is_kept(node: Node) -> None:
    """When a GPU lists no processes any more, who used it last is still known."""
    accountant = node.accountant()
    assert accountant.last_use("GPU-a") is None
    accountant.look()
    node.clock.advance(3600.0)
    accountant.look()
    assert node.catalog.usage.gpus == {}
    last = accountant.last_use("GPU-a")
    assert last is not None
    assert [process.pid for share in last.shares for process in share.processes] == [20]


def test_passes_are_made_within_their_context_until_stopped(node: Node) -> None:
    """The thread makes pass after pass, holds its context meanwhile, and ends when told to."""
    entered, left, looked = threading.Event(), threading.Event(), threading.Semaphore(0)

    @contextlib.contextmanager
    def within() -> Iterator[None]:
        entered.set()
        yield
        left.set()

    class Counted(Attributor):
        def attribute(
            self, plan: Plan, listings: Mapping[str, Listing], now: float, taken_at: datetime
        ) -> Usage:
            looked.release()
            return super().attribute(plan, listings, now, taken_at)

    accountant = node.accountant(Counted(node.made.proc, node.mps_root))
    accountant.start(within())
    for _ in range(3):
        assert looked.acquire(timeout=DEADLINE_S)
    assert entered.is_set()
    assert not left.is_set()
    accountant.stop()
    assert left.wait(DEADLINE_S)


def test_an_error_of_ours_does_not_end_the_passes(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """A pass that fails is logged once, and the next one is made."""
    failed = threading.Semaphore(0)

    class Broken(Attributor):
        def attribute(self, *_: object) -> Usage:
            failed.release()
            raise ZeroDivisionError

    accountant = node.accountant(Broken(node.made.proc, node.mps_root))
    accountant.start(contextlib.nullcontext())
    for _ in range(4):
        assert failed.acquire(timeout=DEADLINE_S)
    accountant.stop()
    assert len([m for m in caplog.messages if "report this as a bug" in m]) == 1


def test_an_error_that_comes_back_is_logged_again(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """After a pass that was good, it is news."""
    passes = threading.Semaphore(0)

    class Flaky(Attributor):
        bad = True

        def attribute(
            self, plan: Plan, listings: Mapping[str, Listing], now: float, taken_at: datetime
        ) -> Usage:
            passes.release()
            self.bad = not self.bad
            if self.bad:
                raise ZeroDivisionError
            return super().attribute(plan, listings, now, taken_at)

    accountant = node.accountant(Flaky(node.made.proc, node.mps_root))
    accountant.start(contextlib.nullcontext())
    for _ in range(5):
        assert passes.acquire(timeout=DEADLINE_S)
    accountant.stop()
    assert len([m for m in caplog.messages if "report this as a bug" in m]) >= 2


def test_what_the_passes_need_is_made_when_it_can_be(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """While it cannot be made, each pass tries again, and the log says so once."""
    usual = Tools(Attributor(node.made.proc, node.mps_root), node.guard)
    results: list[Tools | Exception] = [usual, *[OSError("no memory")] * 3]
    tried = threading.Semaphore(0)

    def tools() -> Tools:
        result = results.pop()
        tried.release()
        if isinstance(result, Exception):
            raise result
        return result

    accountant = Accountant(node.catalog, tools, QUICK_S)
    assert len(results) == 4
    accountant.start(contextlib.nullcontext())
    for _ in range(4):
        assert tried.acquire(timeout=DEADLINE_S)
    accountant.stop()
    assert len([m for m in caplog.messages if "report this as a bug" in m]) == 1


def test_a_process_of_a_pass_can_be_looked_at_again(node: Node) -> None:
    """Whoever is to end it can ask whether it is still the one, and of this task."""
    accountant = node.accountant()
    node.accountant().look()
    (share,) = node.catalog.usage.shares
    assert not accountant.still_belongs(share.processes[0], share.task)  # it has seen nothing yet
    accountant.look()
    assert accountant.still_belongs(share.processes[0], share.task)
    node.made.end(20)
    assert not accountant.still_belongs(share.processes[0], share.task)
