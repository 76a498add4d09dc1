# SPDX-License-Identifier: MPL-2.0
"""What a task would be given, as `plan` and `launch` show it."""

from __future__ import annotations

from collections.abc import Sequence

from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.cli.tables.reservation import (
    Sample,
    reservation_document,
    reservation_table,
    sampled,
)
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device.fingerprint import DeviceGroup, device_groups
from nomad_nvidia_vgpu.device.reserve import Reservation
from nomad_nvidia_vgpu.gpu.model import Gpu, SeenGpu
from nomad_nvidia_vgpu.sharing.grant import DeviceNode, Mount
from nomad_nvidia_vgpu.sharing.plan import make_plan
from unit.example_gpus import LOST, gpu, inventory


def groups(*gpus: Gpu | SeenGpu, vgpus: int = 4) -> tuple[DeviceGroup, ...]:
    """Gives the groups of these GPUs."""
    return device_groups(make_plan(PluginConfig(vgpus=vgpus), inventory(*gpus)), "letmutx")


class Refusal(Exception):  # noqa: N818
    """What a plugin answers that gives nothing."""


def echo(ids: Sequence[str]) -> Reservation:
    """Gives the ids back as a variable; refuses vGPUs of GPU-b."""
    if ids[0].startswith("GPU-b"):
        raise Refusal(f"no {ids[0]}")
    return Reservation({"IDS": ",".join(ids)})


def test_the_sample_is_of_one_healthy_vgpu() -> None:
    """One alone, which every config allows; a GPU that cannot be used is passed over."""
    some = groups(SeenGpu(gpu("GPU-a"), LOST), gpu("GPU-c"), gpu("GPU-d", model="Tesla T4"))
    assert sampled(some, echo, Refusal) == (
        Sample("GPU-c-0", Reservation({"IDS": "GPU-c-0"})),
        [],
    )


def test_each_gpu_is_asked_for() -> None:
    """One GPU whose tasks would not start is told, though those of another would."""
    sample, refused = sampled(groups(gpu("GPU-b"), gpu("GPU-c")), echo, Refusal)
    assert sample is not None
    assert sample.vgpu == "GPU-c-0"
    assert refused == ["no GPU-b-0"]
    assert sampled(groups(gpu("GPU-b")), echo, Refusal) == (None, ["no GPU-b-0"])


def test_without_a_healthy_vgpu_nothing_is_asked_for() -> None:
    """A node on which nothing can be used has no sample."""
    assert sampled(groups(SeenGpu(gpu("GPU-a"), LOST)), echo, Refusal) == (None, [])
    assert sampled((), echo, Refusal) == (None, [])
    assert reservation_document(None) is None


def test_the_reservation_shows_all_that_a_task_gets() -> None:
    """Variables, device files and mounts, for people and for machines."""
    reserved = Reservation(
        {"A": "1"},
        (Mount("/host/libcuda.so", "/lib/libcuda.so.1", read_only=True),),
        (DeviceNode("/dev/nvidia0", "/dev/nvidia0", "rw"),),
    )
    sample = Sample("x", reserved)
    shown = [" ".join(r.split()) for r in style._rendered(reservation_table(sample))]
    assert shown[-3:] == ["A 1", "(device) /dev/nvidia0", "(mount) /lib/libcuda.so.1"]
    assert reservation_document(sample) == {
        "ids": ["x"],
        "envs": {"A": "1"},
        "mounts": [
            {
                "host_path": "/host/libcuda.so",
                "task_path": "/lib/libcuda.so.1",
                "read_only": True,
            }
        ],
        "devices": [
            {"host_path": "/dev/nvidia0", "task_path": "/dev/nvidia0", "permissions": "rw"}
        ],
    }
