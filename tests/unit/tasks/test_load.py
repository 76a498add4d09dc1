# SPDX-License-Identifier: MPL-2.0
"""Which vGPUs tasks have, from reservations and from the environments of processes."""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.tasks.load import UNSEEN_S, Load, LoadWatch
from unit.host.made_proc import MadeProc, nomad_v2

FIRST, SECOND = VgpuId("GPU-a", 0), VgpuId("GPU-a", 1)
TASK = {"NOMAD_ALLOC_ID": "5c9a", "NOMAD_TASK_NAME": "train", "NVIDIA_VGPU_IDS": str(FIRST)}
TIMEOUT_S = 30
HOUR_S = 3600.0

Told = queue.Queue[frozenset[VgpuId]]


def test_a_vgpu_is_held_from_its_reservation_to_the_end_of_its_task() -> None:
    """First without a process, then while one names it."""
    load = Load(only_own=False)
    load.reserve([FIRST], 0.0)
    load.look([], 10.0)
    assert load.held == {FIRST}
    load.look([FIRST], 20.0)
    assert load.held == {FIRST}
    load.look([], 30.0)
    assert load.held == frozenset()


def test_a_task_that_never_starts_gives_its_vgpu_back() -> None:
    """An image may take minutes, and a task may fail before its first process."""
    load = Load(only_own=False)
    load.reserve([FIRST], 0.0)
    load.look([], UNSEEN_S)
    assert load.held == {FIRST}
    load.look([], UNSEEN_S + 1)
    assert load.held == frozenset()


def test_a_look_that_is_older_than_the_reservation_met_the_task_before() -> None:
    """Else the vGPU would count as free until the new task has a process."""
    load = Load(only_own=False)
    load.reserve([FIRST], 10.0)
    load.look([FIRST], 9.0)
    load.look([], 20.0)
    assert load.held == {FIRST}


def test_what_runs_from_before_is_held() -> None:
    """After a restart of the plugin nothing has been reserved."""
    load = Load(only_own=False)
    load.look([SECOND], 0.0)
    assert load.held == {SECOND}


def test_simulated_gpus_have_the_same_names_in_every_agent() -> None:
    """So only what was reserved here counts."""
    load = Load(only_own=True)
    load.reserve([FIRST], 0.0)
    load.look([FIRST, SECOND], 1.0)
    assert load.held == {FIRST}


@pytest.fixture
def told() -> Told:
    """What a watch tells."""
    return queue.Queue()


@pytest.fixture
def proc(tmp_path: Path) -> MadeProc:
    """A /proc of the test's own."""
    return MadeProc(tmp_path)


def watching(told: Told, proc: MadeProc, interval_s: float) -> Iterator[LoadWatch]:
    """A watch until the test ends."""
    watch = LoadWatch(told.put, interval_s, proc.proc)
    watch.start()
    yield watch
    watch.stop()


@pytest.fixture
def quick(told: Told, proc: MadeProc) -> Iterator[LoadWatch]:
    """Looks all the time."""
    yield from watching(told, proc, 0.01)


@pytest.fixture
def slow(told: Told, proc: MadeProc) -> Iterator[LoadWatch]:
    """Looks once an hour, if nobody reserves."""
    yield from watching(told, proc, HOUR_S)


def test_only_a_change_is_told(told: Told, proc: MadeProc, quick: LoadWatch) -> None:
    """First what there is, then each change, and nothing between."""
    assert told.get(timeout=TIMEOUT_S) == frozenset()
    proc.add(12, cgroup=nomad_v2(), environment=TASK)
    assert told.get(timeout=TIMEOUT_S) == {FIRST}
    proc.add(
        13,
        cgroup=nomad_v2(),
        environment={**TASK, "NOMAD_ALLOC_ID": "77", "NVIDIA_VGPU_IDS": str(SECOND)},
    )
    assert told.get(timeout=TIMEOUT_S) == {FIRST, SECOND}


def test_no_two_changes_are_told_within_an_interval(
    told: Told, proc: MadeProc, slow: LoadWatch
) -> None:
    """The first word of the hour is out, so a reservation waits for the next."""
    assert told.get(timeout=TIMEOUT_S) == frozenset()
    slow.reserved([str(FIRST)])
    with pytest.raises(queue.Empty):
        told.get(timeout=0.2)


def test_a_reservation_is_told_at_once_after_a_quiet_interval(
    told: Told, proc: MadeProc, quick: LoadWatch
) -> None:
    """It need not wait for a look; what is no id of a vGPU is nobody's."""
    assert told.get(timeout=TIMEOUT_S) == frozenset()
    quick.reserved([str(FIRST), "nonsense"])
    assert told.get(timeout=TIMEOUT_S) == {FIRST}


def test_a_look_that_fails_is_logged_once_and_forgets_nothing(
    told: Told,
    proc: MadeProc,
    quick: LoadWatch,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The thread lives on."""
    assert told.get(timeout=TIMEOUT_S) == frozenset()
    proc.add(12, cgroup=nomad_v2(), environment=TASK)
    assert told.get(timeout=TIMEOUT_S) == {FIRST}
    looks: queue.Queue[None] = queue.Queue()

    def fail(_proc: object) -> None:
        looks.put(None)
        raise OSError("no /proc")

    with caplog.at_level(logging.ERROR):
        monkeypatch.setattr("nomad_nvidia_vgpu.tasks.load.said_by_tasks", fail)
        for _ in range(3):
            looks.get(timeout=TIMEOUT_S)
    assert told.empty()
    assert len(caplog.records) == 1
