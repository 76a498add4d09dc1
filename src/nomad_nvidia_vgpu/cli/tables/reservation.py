# SPDX-License-Identifier: MPL-2.0
"""What tasks would be given: asked for one vGPU of each GPU, and shown for the first that is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.table import Table

from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.device.fingerprint import DeviceGroup
from nomad_nvidia_vgpu.device.reserve import Reservation


class Sample(NamedTuple):
    """A vGPU, and what a task that has it would be given."""

    vgpu: str
    reservation: Reservation


def sampled(
    groups: Sequence[DeviceGroup],
    reserve: Callable[[Sequence[str]], Reservation],
    refusal: type[Exception],
) -> tuple[Sample | None, list[str]]:
    """The first that `reserve` gives, and the words of each `refusal` that it raises.

    Of each GPU the first healthy vGPU is asked for, alone: no config forbids a task to have one.
    """
    first: dict[str, str] = {}
    for group in groups:
        for instance in group.instances:
            if instance.healthy:
                first.setdefault(instance.id.rpartition("-")[0], instance.id)
    given: list[Sample] = []
    refused: list[str] = []
    for vgpu in first.values():
        try:
            given.append(Sample(vgpu, reserve([vgpu])))
        except refusal as error:
            refused.append(str(error))
    return (given[0] if given else None), refused


def reservation_table(sample: Sample) -> Table:
    """One row for each variable, device file and mount."""
    reservation = sample.reservation
    mounts = [("(mount)", mount.task_path) for mount in reservation.mounts]
    devices = [("(device)", device.task_path) for device in reservation.devices]
    rows = [*sorted(reservation.envs.items()), *devices, *mounts]
    title = f"What a task with {sample.vgpu} would be given"
    return style.table(title, ("Variable", "Value"), rows)


def reservation_document(sample: Sample | None) -> dict[str, object] | None:
    """The same for machines; null without a sample."""
    if sample is None:
        return None
    reservation = sample.reservation
    return {
        "ids": [sample.vgpu],
        "envs": dict(reservation.envs),
        "mounts": [mount._asdict() for mount in reservation.mounts],
        "devices": [device._asdict() for device in reservation.devices],
    }
