# SPDX-License-Identifier: MPL-2.0
"""What running tasks hold, read from their environments."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.host.proc import Proc
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.sharing.withheld import Holding
from nomad_nvidia_vgpu.tasks.holdings import HoldingsWatch, environments, holdings_of
from unit.host.made_proc import MadeProc

TASK = {
    "NOMAD_ALLOC_ID": "5c9a",
    "NOMAD_TASK_NAME": "train",
    "NVIDIA_VGPU_IDS": "GPU-a-3,GPU-b-0",
    "NVIDIA_VGPU_BUDGETS": "GPU-a=100,GPU-b=200",
    "NVIDIA_VGPU_GROUP": "letmutx/gpu/NVIDIA L4",
}
HOLDING = Holding(
    "5c9a/train",
    "letmutx/gpu/NVIDIA L4",
    frozenset({VgpuId("GPU-a", 3), VgpuId("GPU-b", 0)}),
    (("GPU-a", 100), ("GPU-b", 200)),
)


def process(proc: Path, pid: int | str, environ: bytes) -> None:
    """Makes a process in a /proc of the test's own."""
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "environ").write_bytes(environ)


def packed(variables: dict[str, str]) -> bytes:
    """Gives an environment as the kernel has it."""
    return b"".join(f"{name}={value}\0".encode() for name, value in variables.items())


def test_a_task_holds_what_it_was_given() -> None:
    """Ids, budgets and group are those of the reservation."""
    assert holdings_of([TASK]) == {HOLDING}


def test_a_task_of_many_processes_holds_once() -> None:
    """Children inherit the environment, or parts of it; other tasks hold for themselves."""
    child = {k: v for k, v in TASK.items() if k not in ("NVIDIA_VGPU_BUDGETS", "NVIDIA_VGPU_GROUP")}
    other = {**TASK, "NOMAD_TASK_NAME": "serve"}
    assert holdings_of([TASK, TASK, child]) == {HOLDING}
    assert holdings_of([child, TASK]) == {HOLDING}
    assert len(holdings_of([TASK, other])) == 2


def test_what_is_no_task_holds_nothing() -> None:
    """Without an allocation, or without a vGPU, nothing is held."""
    assert holdings_of([{**TASK, "NOMAD_ALLOC_ID": ""}]) == frozenset()
    assert holdings_of([{**TASK, "NVIDIA_VGPU_IDS": "nonsense,-"}]) == frozenset()
    assert holdings_of([{}]) == frozenset()


@given(st.dictionaries(st.sampled_from(sorted(TASK)), st.text(max_size=60)))
def test_any_environment_holds_something_or_nothing(environment: dict[str, str]) -> None:
    """A task may write what it likes into its environment."""
    for holding in holdings_of([{**TASK, **environment}]):
        assert holding.vgpus
        assert all(mib >= 0 for _, mib in holding.budgets)


def test_only_processes_with_vgpus_are_read(tmp_path: Path) -> None:
    """Others, those that may not be read, and what is no process are passed over."""
    process(tmp_path, 1, b"HOME=/root\0")
    process(tmp_path, 12, packed(TASK) + b"\xff=\xfe\0nonsense\0")
    process(tmp_path, "self", packed(TASK))
    (tmp_path / "13").mkdir()
    (found,) = environments(Proc(str(tmp_path)))
    assert TASK.items() <= found.items()


def test_this_machine_can_be_read() -> None:
    """A real process with a reservation is found while it runs."""
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
        env={**os.environ, **TASK, "NOMAD_ALLOC_ID": f"test-{os.getpid()}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert sleeper.stdout is not None
    try:
        sleeper.stdout.readline()  # it runs, with this environment
        tasks = {holding.task for holding in holdings_of(environments(Proc()))}
        assert f"test-{os.getpid()}/train" in tasks
    finally:
        sleeper.communicate()


@pytest.fixture
def found() -> queue.Queue[frozenset[Holding]]:
    """What a watch tells."""
    return queue.Queue()


@pytest.fixture
def watch(tmp_path: Path, found: queue.Queue[frozenset[Holding]]) -> Iterator[HoldingsWatch]:
    """Looks at the processes in a /proc of the test's own, once started, until the test ends."""
    watch = HoldingsWatch(found.put, 0.0, Proc(str(tmp_path / "proc")))
    yield watch
    watch.stop()


def test_the_watch_tells_what_it_finds(
    tmp_path: Path, watch: HoldingsWatch, found: queue.Queue[frozenset[Holding]]
) -> None:
    """Each look tells all that is held then."""
    process(tmp_path / "proc", 12, packed(TASK))
    watch.start()
    assert found.get(timeout=30) == {HOLDING}
    shutil.rmtree(tmp_path / "proc/12")
    while found.get(timeout=30):
        pass


def test_a_look_that_fails_forgets_nothing(
    tmp_path: Path, watch: HoldingsWatch, found: queue.Queue[frozenset[Holding]]
) -> None:
    """What was withheld for tasks that run would be given away; one that never succeeded is told."""
    watch.start()
    assert found.get(timeout=30) == frozenset()
    process(tmp_path / "made", 12, packed(TASK))
    (tmp_path / "made").rename(tmp_path / "proc")
    while found.get(timeout=30) != {HOLDING}:
        pass
    (tmp_path / "proc").rename(tmp_path / "gone")
    for _ in range(3):
        assert found.get(timeout=30) == {HOLDING}


def test_a_stuck_process_hides_no_other(tmp_path: Path) -> None:
    """While one cannot be read, what the others hold is told all the same."""
    made = MadeProc(tmp_path)
    made.add(11, environment=TASK)
    made.get_stuck(11)
    made.add(12, environment={**TASK, "NOMAD_ALLOC_ID": "99aa"})
    (holding,) = holdings_of(environments(made.proc))
    assert holding.task == "99aa/train"
    made.get_going(11, TASK)
    assert {h.task for h in holdings_of(environments(made.proc))} == {"5c9a/train", "99aa/train"}
