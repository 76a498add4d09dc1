# SPDX-License-Identifier: MPL-2.0
"""`python -m bench cluster`: what a cluster costs as it grows, and what published load costs its servers.

Both are on one machine: one server, clients of 8 simulated GPUs in 16 vGPUs each with the installed
plugin, and tasks of Nomad's mock driver; for the load, tasks that are processes.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgpack

from bench import placement
from bench.environment import Installation
from bench.figures import TIMES, Figure

_SIZES = (3, 30)
_FLEET = 5_000
_GPUS = 8
_VGPUS = 16
_TASKS_PER_CLIENT = 64
_JOBS = 4
_SIMULATED = f'vgpus = {_VGPUS}\n simulate = ["a100-sxm4-80gb:{_GPUS}"]'
_INTERVAL_S = 10.0  # the default of publish_load_interval
_SETTLED_S = 3 * _INTERVAL_S
"""After this the last change has reached the servers: Nomad's client waits too."""
_AT_ONCE = 16
_ROUNDS = 10
_PER_ROUND = 10


def measure(installation: Installation) -> list[Figure]:
    """Figures of both; none where there is no Nomad."""
    nomad = placement.nomad()
    if nomad is None:
        return [Figure("a cluster", None, "", note="no Nomad here: `make nomad` builds it")]
    found = []
    for clients in _SIZES:
        configs = {f"c{number}": _SIMULATED for number in range(clients)}
        with placement.cluster(installation, nomad, configs) as (made, jobs):
            found += _grown(made, jobs, clients)
    for published in (False, True):
        options = f'{_SIMULATED}\n group_by = "gpu"\n publish_load = {str(published).lower()}'
        with placement.cluster(installation, nomad, {"c0": options}) as (made, jobs):
            found += _loaded(made, jobs, published=published)
    return found


def _grown(made: Any, jobs: Any, clients: int) -> list[Figure]:
    """How fast tasks are placed on so many clients, whose work it is, and how large a node is."""
    tasks = clients * _TASKS_PER_CLIENT
    before, began = placement.cpu_s(made), time.perf_counter()
    names = [
        made.api.submit(jobs.mock_job(f"grown-{n}", jobs.device(), count=tasks // _JOBS))
        for n in range(_JOBS)
    ]
    made.running(names, tasks)
    took_s = time.perf_counter() - began
    after = placement.cpu_s(made)
    ours_s, all_s = (after[key] - before[key] for key in ("plugins", "all"))
    node = made.node("c0")
    made.api.stop_all()
    size = f"{clients} clients of {_GPUS} {TIMES} {_VGPUS}"
    return [
        Figure(
            f"{size}: placed", tasks / took_s, "tasks/s", note=f"{tasks} tasks in {took_s:.1f} s"
        ),
        Figure(f"{size}: our part of the processor time", 100 * ours_s / all_s, "%"),
        Figure(f"{size}: our processor time for a task", 1e3 * ours_s / tasks, "ms CPU"),
        Figure(
            f"{size}: a node in the servers' state",
            len(msgpack.packb(node)) / 1e3,
            "kB",
            note=_of_a_fleet(node),
        ),
    ]


def _of_a_fleet(node: Mapping[str, Any]) -> str:
    devices = len(msgpack.packb(node["NodeResources"]["Devices"]))
    fleet_mb = len(msgpack.packb(node)) * _FLEET / 1e6
    return f"{devices / 1e3:.1f} kB of it devices; {_FLEET} such nodes: {fleet_mb:.0f} MB, a calculation"


def _loaded(made: Any, jobs: Any, *, published: bool) -> list[Figure]:
    """What the servers write for tasks that come and go on one node."""
    how = "with publish_load" if published else "without publish_load"
    with _counted(made) as at_once:
        job = made.api.submit(jobs.staying_job("at-once", jobs.device(), count=_AT_ONCE))
        made.running([job], _AT_ONCE)
        time.sleep(_SETTLED_S)
    made.api.stop_all()
    time.sleep(_SETTLED_S)
    with _counted(made) as coming:
        for number in range(_ROUNDS):
            name = f"coming-{number}"
            made.api.submit(
                jobs.printing_job(name, jobs.device(), count=_PER_ROUND, first="sleep 2")
            )
            made.api.wait_for(name, "complete", _PER_ROUND)
        time.sleep(_SETTLED_S)
    made.api.stop_all()
    return [
        *_written(f"{_AT_ONCE} tasks at once, {how}", at_once),
        *_written(f"{_ROUNDS * _PER_ROUND} tasks that come and go, {how}", coming),
    ]


def _written(what: str, counted: Mapping[str, float]) -> list[Figure]:
    took = f"in {counted['seconds']:.0f} s, of which {_SETTLED_S:.0f} s wait for the last change"
    return [
        Figure(f"{what}: writes of the servers", counted["writes"], "", note=took),
        Figure(f"{what}: evaluations", counted["evaluations"], ""),
    ]


@contextmanager
def _counted(made: Any) -> Iterator[dict[str, float]]:
    """What the server has written and evaluated within it."""
    found: dict[str, float] = {}
    before, began = _so_far(made), time.perf_counter()
    yield found
    found["seconds"] = time.perf_counter() - began
    found.update((key, value - before[key]) for key, value in _so_far(made).items())


def _so_far(made: Any) -> dict[str, int]:
    raft = made.api.client.agent.get_agent()["stats"]["raft"]
    evaluations = made.api.client.evaluations.get_evaluations()
    return {"writes": int(raft["last_log_index"]), "evaluations": len(evaluations)}


def version() -> str:
    """Which Nomad it is; empty where there is none."""
    nomad = placement.nomad()
    if nomad is None:
        return ""
    said = subprocess.run([nomad, "version"], capture_output=True, text=True, check=True).stdout
    return said.split()[1]
