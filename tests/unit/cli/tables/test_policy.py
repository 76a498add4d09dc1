# SPDX-License-Identifier: MPL-2.0
"""Why each GPU is divided as it is."""

from __future__ import annotations

import json

import pytest

from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.cli.tables.policy import (
    Decision,
    decisions,
    policy_documents,
    policy_table,
)
from nomad_nvidia_vgpu.config.blocks import GpuBlock, GpuConfig
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.sharing.plan import make_plan
from unit.example_gpus import gpu, inventory

NODE = inventory(
    gpu("GPU-a"),
    gpu("GPU-b"),
    gpu("GPU-c"),
    gpu("GPU-t", model="Tesla T4", memory_mib=15360),
)
CONFIG = PluginConfig(
    vgpus=16,
    ignored_gpu_ids=("GPU-c",),
    gpu=(
        GpuBlock("GPU-b", GpuConfig(vgpu_memory_mib=10240, name="big")),
        GpuBlock("*T4*", GpuConfig(vgpu_memory_mib=16384)),
    ),
)


def made() -> list[Decision]:
    """Gives what is decided of the node."""
    return decisions(CONFIG, NODE, make_plan(CONFIG, NODE))


def test_each_gpu_has_a_row_that_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """Size and rule, what else a block decides, who ignored it, or why it cannot be decided."""
    style.show(policy_table(made()))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    why = (
        "GPU-t: its 15360 MiB are less than one vgpu_memory of 16384 MiB"
        ' (gpu "*T4*"): lower it, or give this GPU a size of its own in a gpu block'
    )
    assert lines[2:6] == [
        (
            "GPU-a NVIDIA L4 0000:07:00.0 16 1439 MiB time-slicing NVIDIA L4 healthy"
            " vgpus = 16 (the node's options)"
        ),
        (
            "GPU-b NVIDIA L4 0000:07:00.0 2 11517 MiB time-slicing big healthy"
            ' vgpu_memory = 10240 MiB (gpu "GPU-b"), name (gpu "GPU-b")'
        ),
        "GPU-c NVIDIA L4 0000:07:00.0 - - - - - ignored (ignored_gpu_ids)",
        (f"GPU-t Tesla T4 0000:07:00.0 1 15360 MiB time-slicing its own {why} {why}"),
    ]


def test_machines_get_the_same() -> None:
    """A document has numbers, and null where nothing is published."""
    documents = {
        str(document["uuid"]): document
        for document in json.loads(json.dumps(policy_documents(made())))
    }
    assert documents["GPU-b"]["vgpus"] == 2
    assert documents["GPU-b"]["share_mib"] == 11517
    assert documents["GPU-b"]["group"] == "big"
    assert documents["GPU-b"]["size_asked"] == "vgpu_memory = 10240 MiB"
    assert documents["GPU-b"]["decided_by"] == {
        "size": 'gpu "GPU-b"',
        "sharing": "the node's options",
        "group_by": "the node's options",
        "ignored": "the node's options",
        "name": 'gpu "GPU-b"',
        "memory_overcommit": "the node's options",
        "mps_priority": "the node's options",
    }
    assert documents["GPU-b"]["limit_mib"] == 11517
    assert documents["GPU-c"]["ignored"] is True
    assert documents["GPU-c"]["vgpus"] is None
    assert "less than one vgpu_memory" in documents["GPU-t"]["problem"]
    assert documents["GPU-a"]["problem"] is None


def test_a_limit_above_the_share_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """And by which rule."""
    config = PluginConfig(vgpus=4, gpu=(GpuBlock("*", GpuConfig(memory_overcommit=1.5)),))
    node = inventory(gpu("GPU-a", memory_mib=4000))
    style.show(policy_table(decisions(config, node, make_plan(config, node))))
    out = capsys.readouterr().out
    assert "1000 MiB, up to 1500 MiB" in out
    assert 'memory_overcommit (gpu "*")' in out
