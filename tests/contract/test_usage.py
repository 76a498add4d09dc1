# SPDX-License-Identifier: MPL-2.0
"""The installed program over real processes in real cgroups, which the fake driver reports."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest
from libnvidia_ml.driver import FakeDriver

from .conftest import Start, Started, fact
from .task_cgroups import STUBBORN, NoCgroupsError, RealTask, real_task

VGPUS = 4
MEMORY_MIB = 24564
BUDGET_MIB = MEMORY_MIB // VGPUS
FAR_TOO_MUCH_MIB = 3 * BUDGET_MIB
PATIENCE_S = 60.0

MakeTask = Callable[[], RealTask]


@pytest.fixture
def task(request: pytest.FixtureRequest) -> Iterator[MakeTask]:
    """Makes tasks, in cgroups of the version asked for or of any; skips where there are none."""
    wanted = getattr(request, "param", "any")
    versions = ["v2", "v1"] if wanted == "any" else [wanted]
    with ExitStack() as stack:

        def make() -> RealTask:
            reasons = []
            for version in versions:
                try:
                    return stack.enter_context(real_task(version))
                except NoCgroupsError as error:
                    reasons.append(f"cgroup {version}: {error}")
            pytest.skip("; ".join(reasons))

        yield make


each_version = pytest.mark.parametrize(
    "task",
    [
        pytest.param(version, marks=pytest.mark.may_skip("not every kernel's cgroups are of both"))
        for version in ("v1", "v2")
    ],
    indirect=True,
)


@pytest.fixture
def node(node: FakeDriver) -> FakeDriver:
    """A machine with one GPU, which nobody uses."""
    node.load("t4_old")
    node.set("gpu 0", "memory_total_mib", MEMORY_MIB)
    use(node, {})
    return node


def use(node: FakeDriver, mib: Mapping[int, int | str]) -> None:
    """Lets the driver list these processes with their MiB; "-" where it does not tell."""
    listed = " ".join(f"{pid}:{used}" for pid, used in mib.items())
    node.set("gpu 0", "compute_processes", listed)


def claim(node: FakeDriver, *numbers: int) -> dict[str, str]:
    """What Nomad puts into the environment of a task with these vGPUs."""
    gpu = fact(node, "gpu 0", "uuid")
    return {
        "NVIDIA_VGPU_IDS": ",".join(f"{gpu}-{number}" for number in numbers),
        "NVIDIA_VGPU_BUDGETS": f"{gpu}={MEMORY_MIB * len(numbers) // VGPUS}",
    }


def guarded(node: FakeDriver, start: Start, action: str = "kill", **options: object) -> Started:
    """The plugin with a guard that does not wait long."""
    guard = {"action": action, "grace": "0s", "tolerance_percent": 0}
    host = start(node, vgpus=VGPUS, memory_guard=guard, **options)
    next(host.fingerprints())
    return host


def shown(host: Started, wanted: dict[int, object], figure: str) -> None:
    """Waits until the vGPUs of these numbers show this figure so."""
    deadline = time.monotonic() + PATIENCE_S
    stats = host.stats(0.1)
    while True:
        own = {
            int(vgpu.rpartition("-")[2]): instance.stats.get(figure)
            for instances in next(stats).values()
            for vgpu, instance in instances.items()
        }
        found = {n: stat and (stat.value, stat.total) for n, stat in own.items()}
        if {number: found.get(number) for number in wanted} == wanted:
            stats.cancel()
            return
        assert time.monotonic() < deadline, found


def told(host: Started, words: str) -> str:
    """Waits for a warning that says this."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for message in host.logged("warn"):
            if words in message:
                return message
        assert time.monotonic() < deadline, host.logged("warn")
        time.sleep(0.05)  # between two looks at another process's log


def passes(node: FakeDriver, count: int) -> None:
    """Waits until the processes were listed so many times more."""
    deadline = time.monotonic() + PATIENCE_S
    name = "nvmlDeviceGetComputeRunningProcesses_v3"
    before = node.calls()[name]
    while node.calls()[name] < before + count:
        assert time.monotonic() < deadline
        time.sleep(0.05)  # between two looks at another process's calls


@each_version
def test_a_vgpu_shows_what_its_task_uses(node: FakeDriver, start: Start, task: MakeTask) -> None:
    """Memory out of the share and processes, of each vGPU; those of a share add up."""
    host = guarded(node, start, "warn")
    task_a, task_b = task(), task()
    first = task_a.start(claim(node, 0, 2))
    worker = task_a.start()
    other = task_b.start(claim(node, 3))
    use(node, {first.pid: 301, worker.pid: 100, other.pid: 50})
    shown(
        host,
        {0: (201, BUDGET_MIB), 1: (0, BUDGET_MIB), 2: (200, BUDGET_MIB), 3: (50, BUDGET_MIB)},
        "vGPU memory",
    )
    shown(host, {0: (1, None), 1: (0, None), 2: (1, None), 3: (1, None)}, "vGPU processes")
    use(node, {other.pid: 50})
    shown(host, {0: (0, BUDGET_MIB), 2: (0, BUDGET_MIB), 3: (50, BUDGET_MIB)}, "vGPU memory")


def test_too_much_is_warned_of_and_nobody_ended(
    node: FakeDriver, start: Start, task: MakeTask
) -> None:
    """With "warn" the log names task, allocation, pid, use and budget once."""
    host = guarded(node, start, "warn")
    greedy = task()
    process = greedy.start(claim(node, 0))
    use(node, {process.pid: FAR_TOO_MUCH_MIB})
    line = told(host, f"of allocation {greedy.allocation} ")
    assert line.startswith(f"task train of allocation {greedy.allocation} ")
    assert f" uses {FAR_TOO_MUCH_MIB} " in line
    assert f"its budget is {BUDGET_MIB} MiB: pids {process.pid} " in line
    passes(node, 2)
    assert process.poll() is None
    assert sum(line == message for message in host.logged("warn")) == 1


@pytest.mark.parametrize(
    ("task", "manner"), [("v1", ""), ("v2", ""), ("any", STUBBORN)], indirect=["task"]
)
def test_the_youngest_are_ended_and_the_neighbours_live(
    node: FakeDriver, start: Start, task: MakeTask, manner: str
) -> None:
    """With "kill" as many of the task's processes go as needed, whether they listen or not."""
    host = guarded(node, start)
    greedy, modest = task(), task()
    oldest = greedy.start(claim(node, 0))
    youngest = greedy.start(manner=manner or "pass")
    neighbour = modest.start(claim(node, 1))
    stray = task().start()
    use(
        node,
        {
            oldest.pid: BUDGET_MIB,
            youngest.pid: 1,
            neighbour.pid: BUDGET_MIB,
            stray.pid: FAR_TOO_MUCH_MIB,
        },
    )
    expected = -signal.SIGKILL if manner else -signal.SIGTERM
    assert youngest.wait(PATIENCE_S) == expected
    use(node, {oldest.pid: BUDGET_MIB, neighbour.pid: BUDGET_MIB, stray.pid: FAR_TOO_MUCH_MIB})
    passes(node, 2)
    assert [process.poll() for process in (oldest, neighbour, stray)] == [None] * 3
    assert f"ending pid {youngest.pid} of {greedy.allocation}/train" in told(host, "ending pid")


def test_overcommitted_nobody_is_ended_before_the_gpu_runs_short(
    node: FakeDriver, start: Start, task: MakeTask
) -> None:
    """Then the task that is furthest above its promise goes, and who keeps to it stays."""
    host = guarded(node, start, memory_overcommit=1.5)
    furthest, above, within = task(), task(), task()
    wide = furthest.start(claim(node, 0))
    less = above.start(claim(node, 1))
    kept = within.start(claim(node, 2))
    stray = task().start()
    allowed = {wide.pid: BUDGET_MIB + 2000, less.pid: BUDGET_MIB + 1000, kept.pid: BUDGET_MIB}
    use(node, allowed)
    shown(host, {0: (BUDGET_MIB + 2000, BUDGET_MIB)}, "vGPU memory")
    passes(node, 3)
    assert [process.poll() for process in (wide, less, kept)] == [None] * 3
    short = {**allowed, stray.pid: MEMORY_MIB - sum(allowed.values()) - 100}
    use(node, short)
    assert wide.wait(PATIENCE_S) == -signal.SIGTERM
    use(node, {pid: mib for pid, mib in short.items() if pid != wide.pid})
    line = told(host, f"ending pid {wide.pid} of {furthest.allocation}/train")
    assert "the GPU itself runs short of memory" in line
    passes(node, 2)
    assert [process.poll() for process in (less, kept, stray)] == [None] * 3


def test_a_forger_gets_nobody_ended(node: FakeDriver, start: Start, task: MakeTask) -> None:
    """A task that claims its neighbour's vGPU takes it out of the guard, itself too, and is named."""
    host = guarded(node, start)
    honest, forger = task(), task()
    victim = honest.start(claim(node, 0, 1))
    thief = forger.start(claim(node, 1))
    # Too much for the one vGPU that nobody else claims, if the rest of its claim was believed.
    use(node, {victim.pid: BUDGET_MIB + 1000, thief.pid: FAR_TOO_MUCH_MIB})
    line = told(host, "claimed by")
    assert f"{honest.allocation}/train" in line
    assert f"{forger.allocation}/train" in line
    passes(node, 3)
    assert [victim.poll(), thief.poll()] == [None, None]
    shown(host, {0: None, 1: None, 2: (0, BUDGET_MIB)}, "vGPU memory")


def test_a_process_without_a_cgroup_of_a_task_is_shown_and_spared(
    node: FakeDriver, start: Start
) -> None:
    """What is known by an environment alone counts for display, and is never ended."""
    outside = RealTask.outside()
    try:
        host = guarded(node, start)
        process = outside.start({**claim(node, 0), "NOMAD_ALLOC_ID": "told"})
        use(node, {process.pid: FAR_TOO_MUCH_MIB})
        shown(host, {0: (FAR_TOO_MUCH_MIB, BUDGET_MIB)}, "vGPU memory")
        assert told(host, "of allocation told ").endswith("whose processes these are")
        passes(node, 3)
        assert process.poll() is None
    finally:
        outside.end()


def test_a_driver_that_tells_no_processes_leaves_the_figures_of_the_gpu(
    node: FakeDriver, start: Start
) -> None:
    """Without a list of processes the summary is the GPU's memory, as ever."""
    node.clear("gpu 0", "compute_processes")
    host = guarded(node, start)
    shown(host, {0: None}, "vGPU memory")
    shown(host, {0: (0, MEMORY_MIB)}, "Memory state")


def test_the_tasks_of_a_dead_gpu_are_ended(node: FakeDriver, start: Start, task: MakeTask) -> None:
    """With `end_tasks`, a GPU that needs a reset takes along those that used it."""
    victim = task().start(claim(node, 0))
    outside = RealTask.outside()
    try:
        stray = outside.start(claim(node, 1))
        use(node, {victim.pid: 100, stray.pid: 100})
        host = start(
            node,
            vgpus=VGPUS,
            memory_guard={"action": "off"},
            health={"recovery_period": "0s", "end_tasks": True},
        )
        next(host.fingerprints())
        shown(host, {0: (100, BUDGET_MIB)}, "vGPU memory")
        node.set("gpu 0", "lost", 1)
        assert victim.wait(PATIENCE_S) == -signal.SIGTERM
        assert stray.poll() is None
    finally:
        outside.end()
