# SPDX-License-Identifier: MPL-2.0
"""Devices, reservations and figures as Nomad's messages.

It also keeps out what would hurt the host: no value that is not finite, no text that is not
UTF-8 or holds a NUL, no attribute without a value, no stats without summary and timestamp.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone

from nomad_nvidia_vgpu.device.fingerprint import Attribute, DeviceGroup
from nomad_nvidia_vgpu.device.reserve import Reservation
from nomad_nvidia_vgpu.device.stats import GpuStats, GroupStats, Stat
from nomad_nvidia_vgpu.rpc.generated import device_pb2, structs_pb2

_MAX_SECONDS = 10 * 365 * 86400
_INT64 = 2**63
_UNAVAILABLE = "unavailable"


def fingerprint(groups: Iterable[DeviceGroup]) -> device_pb2.FingerprintResponse:
    """The whole set of devices."""
    response = device_pb2.FingerprintResponse()
    for group in groups:
        message = response.device_group.add(
            vendor=_text(group.vendor),
            device_type=_text(group.type),
            device_name=_text(group.name),
        )
        for instance in group.instances:
            device = message.devices.add(
                ID=_text(instance.id),
                healthy=instance.healthy,
                health_description=_text(instance.health_description),
            )
            if instance.pci_bus_id is not None:
                device.hw_locality.pci_bus_id = _text(instance.pci_bus_id)
        for name, attribute in group.attributes.items():
            if (value := _attribute(attribute)) is not None:
                message.attributes[name].CopyFrom(value)
    return response


def reservation(reserved: Reservation) -> device_pb2.ReserveResponse:
    """What a task is given. `container_res` is always set: the agent crashes without it."""
    envs = {name: _text(value) for name, value in reserved.envs.items()}
    mounts = [
        device_pb2.Mount(
            task_path=mount.task_path, host_path=mount.host_path, read_only=mount.read_only
        )
        for mount in reserved.mounts
    ]
    devices = [
        device_pb2.DeviceSpec(
            task_path=device.task_path,
            host_path=device.host_path,
            permissions=device.permissions,
        )
        for device in reserved.devices
    ]
    container = device_pb2.ContainerReservation(envs=envs, mounts=mounts, devices=devices)
    return device_pb2.ReserveResponse(container_res=container)


def stats(groups: Iterable[GroupStats]) -> device_pb2.StatsResponse:
    """The figures of every vGPU; what all vGPUs of a GPU show is built once and copied."""
    response = device_pb2.StatsResponse()
    for group in groups:
        message = response.groups.add(
            vendor=_text(group.vendor), type=_text(group.type), name=_text(group.name)
        )
        common: device_pb2.DeviceStats | None = None
        of: Mapping[str, Stat] | None = None
        for ids, figures in group.gpus:
            if common is None or figures.stats is not of:
                common, of = _device_stats(figures), figures.stats
            alike = common
            for vgpu_id in ids:
                built = message.instance_stats[_text(vgpu_id)]
                built.CopyFrom(alike)
                if figures.own and alike is common:
                    _write_own(built, figures)
                    alike = built
    return response


def interval_s(request: device_pb2.StatsRequest) -> float:
    """The interval asked for in seconds; 0.0 for none, or for one that makes no sense."""
    asked = request.collection_interval
    seconds = asked.seconds + asked.nanos / 1e9
    return seconds if 0 < seconds < _MAX_SECONDS else 0.0


def _device_stats(figures: GpuStats) -> device_pb2.DeviceStats:
    built = device_pb2.DeviceStats()
    _write_stat(built.summary, figures.summary)
    built.stats.SetInParent()
    attributes = built.stats.attributes
    for name, stat in figures.stats.items():
        _write_stat(attributes[name], stat)
    # The epoch cannot fail; a clock before it (a node without time yet) would.
    moment = max(figures.taken_at, datetime(1970, 1, 1, tzinfo=timezone.utc))
    built.timestamp.FromDatetime(moment)
    return built


def _write_own(built: device_pb2.DeviceStats, figures: GpuStats) -> None:
    attributes = built.stats.attributes
    for name, stat in figures.own.items():
        _write_stat(attributes[name], stat)
        if stat is figures.summary:
            built.summary.CopyFrom(attributes[name])


def _write_stat(message: structs_pb2.StatValue, stat: Stat) -> None:
    message.unit, message.desc = _text(stat.unit), _text(stat.desc)
    if isinstance(stat.value, str) or not _fits(stat.value) or not _fits(stat.total or 0):
        word = stat.value if isinstance(stat.value, str) else _UNAVAILABLE
        message.string_val.value = _text(word)
        message.unit = ""
    elif isinstance(stat.value, int) and isinstance(stat.total, (int, type(None))):
        message.int_numerator_val.value = stat.value
        if stat.total is not None:
            message.int_denominator_val.value = stat.total
    else:
        message.float_numerator_val.value = stat.value
        if stat.total is not None:
            message.float_denominator_val.value = stat.total


def _attribute(attribute: Attribute) -> structs_pb2.Attribute | None:
    value = attribute.value
    if isinstance(value, bool):
        return structs_pb2.Attribute(bool_val=value)
    if isinstance(value, str):
        return structs_pb2.Attribute(string_val=_text(value))
    if not _fits(value):
        return None
    if isinstance(value, int):
        return structs_pb2.Attribute(int_val=value, unit=attribute.unit)
    return structs_pb2.Attribute(float_val=value, unit=attribute.unit)


def _fits(number: float) -> bool:
    """Whether the wire and the host's JSON can carry it."""
    return -_INT64 <= number < _INT64 if isinstance(number, int) else math.isfinite(number)


def _text(text: str) -> str:
    """Text that is valid UTF-8 and holds no NUL."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
