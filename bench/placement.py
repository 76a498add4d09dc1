# SPDX-License-Identifier: MPL-2.0
"""How long a cluster takes to place 300 tasks on vGPUs, and how much of that is ours.

The cluster is that of the tests: one server and three clients with different fleets on loopback,
tasks of Nomad's own mock driver, here over the installed program. Nomad's scheduler and clients
do most of it; the same tasks without vGPUs show how much.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from bench.environment import ROOT, Installation
from bench.figures import Effort, Figure

OURS_BUDGET_PERCENT = 10.0
_JOBS = 5
_TASKS_PER_JOB = 60
_TASKS = _JOBS * _TASKS_PER_JOB


def measure(installation: Installation, effort: Effort) -> list[Figure]:
    """Times from the first job to the last running task, with vGPUs and without."""
    name = f"{_TASKS} tasks placed on vGPUs of three clients"
    binary = nomad()
    if binary is None:
        return [Figure(name, None, "s", note="no Nomad here: `make nomad` builds it")]
    with_vgpus, without, ours = [], [], []
    with cluster(installation, binary) as (made, jobs):
        device = jobs.device()
        for number in range(effort.placements):
            before = cpu_s(made)
            with_vgpus.append(_place(made, jobs, device, f"vgpus-{number}"))
            after = cpu_s(made)
            plugins_s, all_s = (after[key] - before[key] for key in ("plugins", "all"))
            ours.append(100 * plugins_s / all_s)
            without.append(_place(made, jobs, "", f"bare-{number}"))
    return [
        Figure(name, median(with_vgpus), "s", samples=tuple(with_vgpus)),
        Figure("the same tasks without vGPUs", median(without), "s", samples=tuple(without)),
        Figure(
            "our part of the processor time of placing them",
            median(ours),
            "%",
            OURS_BUDGET_PERCENT,
            note="three plugins, of all that four agents and they took",
            samples=tuple(ours),
        ),
    ]


def nomad() -> Path | None:
    """The Nomad to measure with; None where there is none."""
    found = Path(os.environ.get("NVIDIA_VGPU_NOMAD_DIR") or ROOT / "build" / "nomad") / "nomad"
    return found if os.access(found, os.X_OK) else None


@contextlib.contextmanager
def cluster(
    installation: Installation, binary: Path, options: Mapping[str, str] | None = None
) -> Iterator[tuple[Any, Any]]:
    """The tests' cluster and the tests' jobs; `options` of the plugin by client, or their fleets."""
    # pytest finds the package in the same way (pythonpath in pyproject.toml).
    sys.path.insert(0, str(ROOT / "tests"))
    os.environ["NVIDIA_VGPU_PLUGIN"] = str(installation.program)
    clusters = importlib.import_module("e2e.cluster")
    fleets = importlib.import_module("e2e.fleets")
    jobs = importlib.import_module("e2e.jobs")
    block = importlib.import_module("e2e.conftest").plugin_block
    configs = {name: block(given) for name, given in (options or fleets.FLEETS).items()}
    with (
        tempfile.TemporaryDirectory(prefix="b") as root,  # short: it ends up in socket paths
        clusters.started(binary, Path(root), configs) as started,
    ):
        yield started, jobs


def _place(made: Any, jobs: Any, device: str, name: str) -> float:
    """Seconds until all tasks run; ends them afterwards."""
    began = time.perf_counter()
    placed = [
        made.api.submit(jobs.mock_job(f"{name}-{n}", device, count=_TASKS_PER_JOB))
        for n in range(_JOBS)
    ]
    made.running(placed, _TASKS)
    took_s = time.perf_counter() - began
    made.api.stop_all()
    return took_s


def cpu_s(made: Any) -> Mapping[str, float]:
    """The processor time that the plugins have used, and that they and all agents have."""
    plugins = [client.the_plugin() for client in made.clients.values()]
    agents = [psutil.Process(a.pid) for a in (made.server, *made.clients.values())]
    ours = sum(sum(process.cpu_times()[:2]) for process in plugins)
    return {"plugins": ours, "all": ours + sum(sum(p.cpu_times()[:2]) for p in agents)}
