# SPDX-License-Identifier: MPL-2.0
"""What processes of another user say of themselves costs the plugin little, in sum."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
from libnvidia_ml.driver import FakeDriver

from nomad_nvidia_vgpu.rpc.client import Refused

from .conftest import Start, Started
from .hostile import NOBODY, as_root, crowd
from .task_cgroups import NoCgroupsError, RealTask, real_task

GPUS = [f"GPU-{letter}" for letter in "abcdefgh"]
PROCESSES = 400
MOST_MIB = 15
RESERVE_S = 0.05
PATIENCE_S = 120.0


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


def slowest_reserves_s(hosts: Sequence[Started], seconds: float) -> list[float]:
    """How long the slowest Reserve of each of these plugins takes, which are asked in turn."""
    slowest, until = [0.0] * len(hosts), time.monotonic() + seconds
    while time.monotonic() < until:
        for number, host in enumerate(hosts):
            began = time.monotonic()
            with suppress(Refused):  # where a task says that it holds it
                host.reserve(["GPU-a-0"])
            slowest[number] = max(slowest[number], time.monotonic() - began)
            time.sleep(0.005)  # no agent asks without pause
    return slowest


@as_root
@pytest.mark.parametrize("where", ["in the cgroup of a task", "in no task's cgroup"])
def test_what_400_processes_claim_costs_little(
    node: FakeDriver, start: Start, tasks: list[RealTask], where: str
) -> None:
    """Each claims 4,096 vGPUs: 15 MiB in all, no slow Reserve, one line with the uid."""
    host = started(start, node)
    other = start(simulate=["l4:8"], vgpus=16)  # looks at no process: as slow as the machine is
    next(other.fingerprints())
    looked(host, tasks[0], "GPU-h")
    slowest_reserves_s([host, other], 1)
    plugin = psutil.Process(host.plugin.process.pid)
    before = plugin.memory_info().rss
    cgroup: Path | None = tasks[1].directory if where.startswith("in the") else None
    with crowd(PROCESSES, GPUS, cgroup) as pids:
        node.set("gpu 0", "compute_processes", " ".join(f"{pid}:1" for pid in pids[:50]))
        if cgroup is None:
            looked(host, tasks[0], "GPU-h")
        else:
            wait_for(host.fingerprints(), "GPU-h", 0)
        slowest_s, as_slow_s = slowest_reserves_s([host, other], 6)
        grown_mib = (plugin.memory_info().rss - before) / (1 << 20)
        offered = sum(i.healthy for g in next(host.fingerprints()) for i in g.instances)
    assert grown_mib <= MOST_MIB
    assert slowest_s <= max(RESERVE_S, 3 * as_slow_s)
    complaints = [line for line in host.logged("warn") if f" of uid {NOBODY} claims" in line]
    assert len(complaints) == 1, host.logged("warn")
    if cgroup is None:
        assert offered == 8 * 16, "who is in no task's cgroup withholds nothing"


@as_root
def test_a_process_of_no_task_withholds_nothing(
    node: FakeDriver, start: Start, tasks: list[RealTask]
) -> None:
    """Any user could say that he holds vGPUs of another division, and nobody would get them."""
    host = started(start, node)
    with crowd(1, ["GPU-b"]):
        looked(host, tasks[0], "GPU-h")
        stream = host.fingerprints()
        assert all(i.healthy for g in next(stream) for i in g.instances)
