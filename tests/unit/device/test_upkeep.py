# SPDX-License-Identifier: MPL-2.0
"""The threads that keep in force what holds the shares."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.config.blocks import MpsConfig
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device.upkeep import Upkeep
from nomad_nvidia_vgpu.errors import NOTHING, Problem
from nomad_nvidia_vgpu.gpu.model import Gpu
from nomad_nvidia_vgpu.sharing.enforcement import IN_FORCE, STARTING, Enforcement
from nomad_nvidia_vgpu.sharing.strategy import enforcers_of
from nomad_nvidia_vgpu.state.catalog import Catalog
from unit.example_gpus import gpu, inventory
from unit.gpu.scripted_source import ScriptedSource
from unit.manual_clock import DEADLINE_S

MPS = PluginConfig(vgpus=2, sharing="mps")
TIME_SLICING = PluginConfig(vgpus=2)
A, B = gpu("GPU-a"), gpu("GPU-b")


class ScriptedEnforcer:
    """An `Enforcer` that answers as told."""

    def __init__(self) -> None:
        """Holds everything at once, and has nothing left over."""
        self.answers: dict[str, Enforcement | Exception] = {}
        self.once: dict[str, Enforcement] = {}
        """What is answered a single time, before that."""
        self.left: dict[str, Problem] = {}
        """What is left over, by UUID, and why it cannot be released."""
        self.kept: list[tuple[str, int]] = []
        self.gate: dict[str, threading.Event] = {}
        self.memory_percents: list[int] = []

    def keep(self, gpu: Gpu, vgpus: int, memory_percent: int = 100) -> Enforcement:
        """As told."""
        self.memory_percents.append(memory_percent)
        self.kept.append((gpu.uuid, vgpus))
        if gpu.uuid in self.gate:
            self.gate[gpu.uuid].wait(DEADLINE_S)
        answer = self.once.pop(gpu.uuid, None) or self.answers.get(gpu.uuid, IN_FORCE)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def holds(self, uuid: str) -> bool:
        """As told."""
        return uuid in self.left

    def release(self, uuid: str) -> Problem:
        """As told; what has no reason to stay is gone."""
        if not self.left[uuid]:
            del self.left[uuid]
            return NOTHING
        return self.left[uuid]

    def left_over(self) -> list[str]:
        """As told."""
        return sorted(self.left)


class Kept:
    """A catalog, its upkeep, and the machinery behind."""

    def __init__(self, config: PluginConfig) -> None:
        """Starts the upkeep."""
        self.catalog = Catalog(config)
        self.enforcer = ScriptedEnforcer()
        self.upkeep = Upkeep(self.catalog, {"mps": self.enforcer}, interval_s=0.01)
        self.upkeep.expect()
        self.upkeep.start()

    def problems(self) -> dict[str, str]:
        """Why each GPU cannot be used."""
        shared = self.catalog.edition.plan.by_uuid().values()
        return {share.gpu.uuid: share.health.reason for share in shared}

    def expect(self, claim: Callable[[], bool]) -> None:
        """Waits until this is true."""
        deadline = time.monotonic() + DEADLINE_S
        while not claim():  # not all of it is told by the catalog
            assert time.monotonic() < deadline, self.problems()
            self.catalog.wait(lambda _edition: claim(), 0.01)


@pytest.fixture
def start() -> Iterator[Callable[[PluginConfig], Kept]]:
    """Starts upkeeps; ends their threads after the test."""
    before = set(threading.enumerate())
    made: list[Kept] = []

    def run(config: PluginConfig) -> Kept:
        made.append(Kept(config))
        return made[-1]

    yield run
    for kept in made:
        kept.upkeep.stop()
        for gate in kept.enforcer.gate.values():
            gate.set()
    deadline = time.monotonic() + DEADLINE_S
    while set(threading.enumerate()) - before:  # one may be about to start another
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)


Start = Callable[[PluginConfig], Kept]


def test_a_catalog_is_complete_when_all_is_in_force(start: Start) -> None:
    """The first fingerprint waits for the daemons, and tells what they hold."""
    kept = start(MPS)
    kept.enforcer.gate["GPU-a"] = threading.Event()
    kept.catalog.take_inventory(inventory(A, B), complete=True)
    kept.expect(lambda: kept.problems() == {"GPU-a": STARTING.problem, "GPU-b": ""})
    assert not kept.catalog.edition.complete
    kept.enforcer.gate["GPU-a"].set()
    kept.expect(lambda: kept.catalog.edition.complete)
    isolation = {g.gpus[0].memory_isolation for g in kept.catalog.edition.plan.groups}
    assert isolation == {"mps"}


def test_a_problem_is_that_gpus_alone_and_passes(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """The GPU is unhealthy with the sentence while it holds; one log line for each change."""
    kept = start(MPS)
    kept.enforcer.answers["GPU-b"] = Enforcement(problem=Problem("GPU-b: gone wrong", "fix it"))
    with caplog.at_level(logging.INFO):
        kept.catalog.take_inventory(inventory(A, B), complete=True)
        kept.expect(lambda: kept.problems() == {"GPU-a": "", "GPU-b": "GPU-b: gone wrong: fix it"})
        passes = len(kept.enforcer.kept)
        kept.expect(lambda: len(kept.enforcer.kept) > passes + 6)
        del kept.enforcer.answers["GPU-b"]
        kept.expect(lambda: set(kept.problems().values()) == {""})
    assert caplog.messages.count("GPU-b: gone wrong: fix it") == 1
    assert caplog.messages.count("GPU-b can be shared again") == 1


def test_a_pass_that_hangs_does_not_hold_up_the_others(start: Start) -> None:
    """Each GPU has a thread of its own."""
    kept = start(MPS)
    kept.enforcer.gate["GPU-a"] = threading.Event()
    kept.catalog.take_inventory(inventory(A, B), complete=True)
    kept.expect(lambda: len([k for k in kept.enforcer.kept if k[0] == "GPU-b"]) > 3)


def test_an_unforeseen_failure_is_told_and_tried_again(start: Start) -> None:
    """A bug of ours takes one GPU away, not the plugin."""
    kept = start(MPS)
    kept.enforcer.answers["GPU-a"] = ZeroDivisionError("bug")
    kept.catalog.take_inventory(inventory(A), complete=True)
    kept.expect(lambda: "report this as a bug" in kept.problems()["GPU-a"])
    del kept.enforcer.answers["GPU-a"]
    kept.expect(lambda: kept.problems() == {"GPU-a": ""})


def test_a_gpu_that_cannot_be_shared_so_is_left_alone(start: Start) -> None:
    """Nothing is started for a GPU without limits."""
    kept = start(MPS)
    old = gpu("GPU-a", cuda_compute_capability=6.1)
    kept.catalog.take_inventory(inventory(old, B), complete=True)
    kept.expect(lambda: ("GPU-b", 2) in kept.enforcer.kept)
    assert ("GPU-a", 2) not in kept.enforcer.kept
    assert "compute capability 6.1" in kept.problems()["GPU-a"]


def test_what_an_earlier_config_left_is_taken_off(start: Start) -> None:
    """A GPU is offered again only when nobody uses it in the old way any more."""
    kept = start(TIME_SLICING)
    kept.enforcer.left["GPU-a"] = Problem("GPU-a is still shared by MPS")
    kept.catalog.take_inventory(inventory(A, B), complete=True)
    kept.expect(lambda: kept.problems() == {"GPU-a": "GPU-a is still shared by MPS", "GPU-b": ""})
    kept.enforcer.left["GPU-a"] = Problem("")
    kept.expect(lambda: set(kept.problems().values()) == {""})
    assert kept.enforcer.left == {}


def test_what_is_left_on_an_ignored_gpu_is_taken_off(start: Start) -> None:
    """It was ignored after it had been shared."""
    kept = start(PluginConfig(vgpus=2, sharing="mps", ignored_gpu_ids=("GPU-b",)))
    kept.enforcer.left["GPU-b"] = Problem("")
    kept.catalog.take_inventory(inventory(A, B), complete=True)
    kept.expect(lambda: kept.enforcer.left == {})


def test_what_is_left_for_a_gpu_that_nobody_has_seen_stays(start: Start) -> None:
    """The driver may be late, and its tasks will need their daemon."""
    kept = start(MPS)
    kept.enforcer.left["GPU-c"] = Problem("")
    kept.catalog.take_inventory(inventory(), complete=True)
    kept.catalog.take_inventory(inventory(A), complete=True)
    kept.expect(lambda: len(kept.enforcer.kept) > 3)
    assert kept.enforcer.left == {"GPU-c": ""}


def test_a_node_that_never_used_mps_has_nothing_to_keep(tmp_path: Path) -> None:
    """No threads, no imports."""
    never = PluginConfig(vgpus=2, mps=MpsConfig(root=str(tmp_path / "none")))
    assert enforcers_of(never, ScriptedSource()) == {}
    assert list(enforcers_of(MPS, ScriptedSource())) == ["mps"]


def test_one_slow_answer_takes_no_gpu_away(start: Start) -> None:
    """A GPU that was well is asked a second time before anybody hears of it."""
    kept = start(MPS)
    kept.catalog.take_inventory(inventory(A), complete=True)
    kept.expect(lambda: kept.problems() == {"GPU-a": ""})
    number = kept.catalog.edition.number
    kept.enforcer.once["GPU-a"] = Enforcement(problem=Problem("GPU-a: does not answer"))
    kept.expect(lambda: not kept.enforcer.once)
    passes = len(kept.enforcer.kept)
    kept.expect(lambda: len(kept.enforcer.kept) > passes + 3)
    assert kept.catalog.edition.number == number


def test_what_is_left_on_a_gpu_that_cannot_be_shared_now_stays(start: Start) -> None:
    """`vgpus` was raised too high by a slip: tasks that run need their daemon."""
    kept = start(PluginConfig(vgpus=200, sharing="mps"))
    kept.enforcer.left["GPU-a"] = Problem("")
    kept.catalog.take_inventory(inventory(A), complete=True)
    kept.expect(lambda: kept.catalog.edition.complete)
    kept.catalog.take_inventory(inventory(A, B), complete=True)
    kept.expect(lambda: kept.catalog.edition.complete)
    assert kept.enforcer.left == {"GPU-a": ""}
