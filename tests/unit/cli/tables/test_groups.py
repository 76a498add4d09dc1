# SPDX-License-Identifier: MPL-2.0
"""Device groups as tables and documents."""

from __future__ import annotations

import json

import pytest

from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.cli.tables.groups import (
    device_name,
    group_documents,
    group_tables,
    vgpu_table,
)
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device.fingerprint import DeviceGroup, device_groups
from nomad_nvidia_vgpu.gpu.model import SeenGpu
from nomad_nvidia_vgpu.sharing.plan import make_plan
from unit.example_gpus import LOST, gpu, inventory

NODE = inventory(gpu("GPU-a"), SeenGpu(gpu("GPU-b"), LOST), gpu("GPU-t", model="Tesla T4"))


def groups(vgpus: int = 16) -> tuple[DeviceGroup, ...]:
    """Gives the groups of a node."""
    return device_groups(make_plan(PluginConfig(vgpus=vgpus), NODE), "letmutx")


def test_a_device_has_the_name_that_jobs_use() -> None:
    """The full name has vendor, type and model."""
    assert [device_name(group) for group in groups()] == [
        "letmutx/gpu/NVIDIA L4",
        "letmutx/gpu/Tesla T4",
    ]


def test_tables_show_groups_and_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    """The tables count the vGPUs of each group and give each GPU one row with its ids."""
    style.show(*group_tables(groups()), vgpu_table(groups()))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "letmutx/gpu/NVIDIA L4 1 32 16 1439 MiB time-slicing none" in lines
    assert "GPU-a-0 … -15 0000:07:00.0 healthy" in lines
    assert f"GPU-b-0 … -15 0000:07:00.0 {LOST.reason}" in lines
    assert "memory 23034 MiB" in lines
    assert "model NVIDIA L4 Tesla T4" in lines


def test_groups_of_one_gpu_that_are_alike_are_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    """What is common to them is told once, and a group that differs has its own row."""
    node = inventory(*(gpu(f"GPU-{n}") for n in range(8)), gpu("GPU-t", model="Tesla T4"))
    config = PluginConfig(vgpus=4, group_by="gpu")
    style.show(*group_tables(device_groups(make_plan(config, node), "letmutx")))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "letmutx/gpu/NVIDIA L4/<GPU uuid> 8 4 4 5758 MiB time-slicing none" in lines
    assert "letmutx/gpu/Tesla T4/<GPU uuid> 1 4 4 5758 MiB time-slicing none" in lines
    assert "memory 23034 MiB" in lines


def test_groups_of_one_gpu_that_are_alike_are_one_column(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Beside a group of another kind; where one of them differs, each has its own column."""
    config = PluginConfig(vgpus=4, group_by="gpu")
    alike = (*(gpu(f"GPU-{n}") for n in range(2)), gpu("GPU-t", model="Tesla T4"))
    for other, headings in (
        ((), "NVIDIA L4/<GPU uuid> Tesla T4/<GPU uuid>"),
        (
            (gpu("GPU-w", power_limit_w=40),),
            "NVIDIA L4/GPU-0 NVIDIA L4/GPU-1 NVIDIA L4/GPU-w Tesla T4/GPU-t",
        ),
    ):
        plan = make_plan(config, inventory(*alike, *other))
        style.show(*group_tables(device_groups(plan, "letmutx")))
        lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert f"Attribute {headings}" in lines


def test_a_single_vgpu_is_no_range(capsys: pytest.CaptureFixture[str]) -> None:
    """A GPU with one vGPU shows its one id."""
    style.show(vgpu_table(groups(1)))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "GPU-a-0 0000:07:00.0 healthy" in lines


def test_no_groups_are_empty_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """A node that publishes nothing shows empty tables, not an error."""
    style.show(*group_tables(()))
    assert "Device groups" in capsys.readouterr().out


def test_documents_have_every_vgpu_and_attribute() -> None:
    """For machines, a group is its name, attributes with their units, and every vGPU."""
    first, _ = json.loads(json.dumps(group_documents(groups(2))))
    assert first["device"] == "letmutx/gpu/NVIDIA L4"
    assert first["attributes"]["memory"] == {"value": 23034, "unit": "MiB"}
    assert first["attributes"]["vgpus"] == {"value": 2}
    assert [vgpu["id"] for vgpu in first["vgpus"]] == ["GPU-a-0", "GPU-a-1", "GPU-b-0", "GPU-b-1"]
    assert first["vgpus"][2]["health_description"] == LOST.reason
