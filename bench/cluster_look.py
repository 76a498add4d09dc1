# SPDX-License-Identifier: MPL-2.0
"""What `nvidia-vgpu cluster` and `why` cost for each node of a large cluster, on the machine that asks.

A server on loopback gives the lists as Nomad's servers would: nodes of 8 GPUs in 16 vGPUs each, half of them
held. What the servers need for their answers is not in it.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.environment import ROOT
from bench.figures import TIMES, Figure

BUDGET_MS = 10.0
"""For each node: 5,000 of them in less than a minute."""
_NODES = 200
_GPUS = 8
_VGPUS = 16
_FLEET = 5_000


def measure() -> list[Figure]:
    """Processor time for each node: reading all of them, and judging a job on each."""
    # pytest finds the package in the same way (pythonpath in pyproject.toml).
    sys.path.insert(0, str(ROOT / "tests"))
    made = importlib.import_module("unit.cli.cluster.made_cluster")
    model = importlib.import_module("nomad_nvidia_vgpu.cli.cluster.model")
    explanation = importlib.import_module("nomad_nvidia_vgpu.cli.cluster.explanation")
    job = made.job(made.block("letmutx/gpu", 4, "${device.attr.vgpu_memory} >= 10 GiB"))
    with made.serving(_answers(made)) as served:
        connection = served.connection()
        model.read_fleet(connection)  # the connection and the caches are warm
        reading_ms, fleet = _timed(lambda: model.read_fleet(connection))
        judging_ms, _ = _timed(lambda: explanation.explain(job, job.groups[0], fleet, {}))
    seconds = (reading_ms + judging_ms) * _FLEET / 1e3
    return [
        Figure(
            f"cluster: a node of {_GPUS} {TIMES} {_VGPUS}, read",
            reading_ms,
            "ms CPU",
            BUDGET_MS,
            note="with the server of the benchmark",
        ),
        Figure(
            f"why: a node of {_GPUS} {TIMES} {_VGPUS}, judged",
            judging_ms,
            "ms CPU",
            BUDGET_MS,
            note=f"both for {_FLEET} nodes: {seconds:.0f} s, a calculation",
        ),
    ]


def _answers(made: Any) -> dict[str, Any]:
    group = made.device_group("NVIDIA H100 80GB HBM3", gpus=_GPUS, vgpus=_VGPUS)
    nodes = [made.node(f"n{number}", group) for number in range(_NODES)]
    ids = [instance["ID"] for instance in group["Instances"]][::2]
    held = [
        made.allocation(f"{number}-{index}", f"n{number}", group["Name"], id_, job=f"job-{index}")
        for number in range(_NODES)
        for index, id_ in enumerate(ids)
    ]
    answers: dict[str, Any] = made.cluster(nodes, held)
    return answers


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds of processor time for each node, and what the work gives."""
    began = time.process_time()
    found = work()
    return (time.process_time() - began) * 1e3 / _NODES, found
