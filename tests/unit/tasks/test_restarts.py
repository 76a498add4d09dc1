# SPDX-License-Identifier: MPL-2.0
"""A task that Nomad has started again is found without the driver."""

from __future__ import annotations

from pathlib import Path

from unit.host.made_proc import nomad_v2
from unit.tasks.attributing import Node, claims


def test_a_task_that_was_started_again_is_found(tmp_path: Path) -> None:
    """By its cgroup, and only on a GPU that it still claims."""
    node = Node(tmp_path)
    node.made.add(10, cgroup=nomad_v2(), environment=claims("GPU-a-0"))
    node.use("GPU-a", {10: 500})
    (share,) = node.on().shares
    task = share.task
    node.made.end(10)
    node.use("GPU-a", {})
    assert node.attributor.first_process(task, "GPU-a") is None
    node.made.add(11, cgroup=nomad_v2(), environment=claims("GPU-a-0"))
    found = node.attributor.first_process(task, "GPU-a")
    assert found is not None
    assert (found.pid, found.memory_mib) == (11, None)
    assert node.attributor.first_process(task, "GPU-b") is None


def test_a_task_that_was_never_seen_is_not_found(tmp_path: Path) -> None:
    """Who has never used a GPU is nobody's to end."""
    node = Node(tmp_path)
    node.made.add(10, cgroup=nomad_v2(), environment=claims("GPU-a-0"))
    node.use("GPU-a", {10: 500})
    (share,) = node.on().shares
    stranger = share.task._replace(key="another")
    assert node.attributor.first_process(stranger, "GPU-a") is None
