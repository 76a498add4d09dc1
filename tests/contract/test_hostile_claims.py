# SPDX-License-Identifier: MPL-2.0
"""What processes of another user say of themselves costs the plugin little, in sum."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import this_run
from libnvidia_ml.driver import FakeDriver

from .conftest import Start, Started
from .hostile import NOBODY, as_root, crowd
from .mps_machine import eventually
from .task_cgroups import NoCgroupsError, RealTask, real_task

GPUS = [f"GPU-{this_run.TOKEN[:4]}{letter}" for letter in "abcdefgh"]
LAST = GPUS[-1]
PROCESSES = 400
MOST_MIB = 15


@pytest.fixture
def node(node: FakeDriver) -> FakeDriver:
    """Eight GPUs with names so short that a process can claim 4,096 vGPUs of them."""
    node.load("h100x8")
    for number, uuid in enumerate(GPUS):
        node.set(f"gpu {number}", "uuid", uuid)
    return node


@pytest.fixture
def tasks() -> Iterator[list[RealTask]]:
    """Gives two tasks; skips where no cgroups can be made."""
    with ExitStack() as stack:
        made = []
        for _ in range(2):
            for version in ("v2", "v1"):
                try:
                    made.append(stack.enter_context(real_task(version)))
                    break
                except NoCgroupsError as error:
                    reason = error
            else:
                pytest.skip(str(reason))
        yield made


def started(start: Start, node: FakeDriver) -> Started:
    """The plugin, which looks at tasks as often as it may, and lists the processes of its GPUs."""
    host = start(node, vgpus=16, fingerprint_period="1s", memory_guard={"action": "warn"})
    next(host.fingerprints())
    return host


def looked(host: Started, witness: RealTask, uuid: str) -> None:
    """Returns when the plugin has looked at every task: it withholds what a witness then holds."""
    process = witness.start({"NVIDIA_VGPU_IDS": f"{uuid}-99", "NOMAD_ALLOC_ID": witness.allocation})
    stream = host.fingerprints()
    wait_for(stream, uuid, 15)
    process.kill()
    wait_for(stream, uuid, 16)
    stream.cancel()


def wait_for(stream: Iterator[object], uuid: str, healthy: int) -> None:
    """Returns when so many vGPUs of a GPU are offered."""
    for groups in stream:
        found = [i for g in groups for i in g.instances if i.id.startswith(f"{uuid}-")]  # type: ignore[attr-defined]
        if sum(instance.healthy for instance in found) == healthy:
            return


def complaints(host: Started) -> list[str]:
    """The lines that say that this user claims too much."""
    return [line for line in host.logged("warn") if f" of uid {NOBODY} claims" in line]


@as_root
@pytest.mark.parametrize("where", ["in the cgroup of a task", "in no task's cgroup"])
def test_what_400_processes_claim_costs_little(
    node: FakeDriver, start: Start, tasks: list[RealTask], where: str
) -> None:
    """Each claims 4,096 vGPUs: 15 MiB in all, one line with the uid. `make bench` times Reserve."""
    host = started(start, node)
    looked(host, tasks[0], LAST)
    plugin = psutil.Process(host.plugin.process.pid)
    before = plugin.memory_info().rss
    cgroup: Path | None = tasks[1].directory if where.startswith("in the") else None
    with crowd(PROCESSES, GPUS, cgroup) as pids:
        node.set("gpu 0", "compute_processes", " ".join(f"{pid}:1" for pid in pids[:50]))
        if cgroup is None:
            looked(host, tasks[0], LAST)
        else:
            wait_for(host.fingerprints(), LAST, 0)
        eventually(lambda: complaints(host))
        grown_mib = (plugin.memory_info().rss - before) / (1 << 20)
        offered = sum(i.healthy for g in next(host.fingerprints()) for i in g.instances)
    assert grown_mib <= MOST_MIB
    assert len(complaints(host)) == 1, host.logged("warn")
    if cgroup is None:
        assert offered == 8 * 16, "a process in no task's cgroup withholds nothing"


@as_root
def test_a_process_of_no_task_withholds_nothing(
    node: FakeDriver, start: Start, tasks: list[RealTask]
) -> None:
    """Any user could say that he holds vGPUs of another division, and nobody would get them."""
    host = started(start, node)
    with crowd(1, GPUS[1:2]):
        looked(host, tasks[0], LAST)
        stream = host.fingerprints()
        assert all(i.healthy for g in next(stream) for i in g.instances)
