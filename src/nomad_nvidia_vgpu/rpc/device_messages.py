# SPDX-License-Identifier: MPL-2.0
"""Devices, reservations and figures as Nomad's messages.

It also keeps out what would hurt the host: no value that is not finite, no text that is not
UTF-8 or holds a NUL, no attribute without a value, no stats without summary and timestamp.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from functools import lru_cache

from nomad_nvidia_vgpu.device.fingerprint import Attribute, DeviceGroup
from nomad_nvidia_vgpu.device.reserve import Reservation
from nomad_nvidia_vgpu.device.stats import GpuStats, GroupStats, Stat
from nomad_nvidia_vgpu.rpc.generated import device_pb2, structs_pb2

_MAX_SECONDS = 10 * 365 * 86400
_INT64 = 2**63
_UNAVAILABLE = "unavailable"

_LENGTH_DELIMITED = 2
_SEVEN_BITS = 0x7F
_MAP_KEY, _MAP_VALUE = 1, 2  # as in every map of Protocol Buffers


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


def stats(groups: Iterable[GroupStats]) -> bytes:
    """The figures of every vGPU, serialised.

    What all vGPUs of a GPU show is written once, and its bytes are joined to what is each one's own:
    128 vGPUs cost little more than 8 GPUs.
    """
    response = device_pb2.StatsResponse
    return b"".join(_field(response.GROUPS_FIELD_NUMBER, _group_stats(group)) for group in groups)


def interval_s(request: device_pb2.StatsRequest) -> float:
    """The interval asked for in seconds; 0.0 for none, or for one that makes no sense."""
    asked = request.collection_interval
    seconds = asked.seconds + asked.nanos / 1e9
    return seconds if 0 < seconds < _MAX_SECONDS else 0.0


def _group_stats(group: GroupStats) -> bytes:
    parts = [
        device_pb2.DeviceGroupStats(
            vendor=_text(group.vendor), type=_text(group.type), name=_text(group.name)
        ).SerializeToString()
    ]
    entry = device_pb2.DeviceGroupStats.INSTANCE_STATS_FIELD_NUMBER
    common, of = b"", None
    for ids, figures in group.gpus:
        if figures.stats is not of:
            common, of = _attributes(figures.stats), figures.stats
        shown = _field(_MAP_VALUE, _device_stats(figures, common))
        for vgpu_id in ids:
            key = _key(vgpu_id)
            parts += (_head(entry, len(key) + len(shown)), key, shown)
    return b"".join(parts)


def _device_stats(figures: GpuStats, common: bytes) -> bytes:
    """One DeviceStats; `common` are the figures of its GPU, as bytes of a StatObject."""
    rest = device_pb2.DeviceStats()
    _write_stat(rest.summary, figures.summary)
    # The epoch cannot fail; a clock before it (a node without time yet) would.
    moment = max(figures.taken_at, datetime(1970, 1, 1, tzinfo=timezone.utc))
    rest.timestamp.FromDatetime(moment)
    stats = _field(
        device_pb2.DeviceStats.STATS_FIELD_NUMBER,
        common + _attributes(figures.own) if figures.own else common,
    )
    return rest.SerializeToString() + stats


def _attributes(stats: Mapping[str, Stat]) -> bytes:
    built = structs_pb2.StatObject()
    attributes = built.attributes
    for name, stat in stats.items():
        _write_stat(attributes[name], stat)
    return built.SerializeToString()


@lru_cache(maxsize=1024)
def _key(vgpu_id: str) -> bytes:
    return _field(_MAP_KEY, _text(vgpu_id).encode())


def _field(number: int, content: bytes) -> bytes:
    """A field of a message."""
    return _head(number, len(content)) + content


@lru_cache(maxsize=256)
def _head(number: int, length: int) -> bytes:
    """What stands before the content of a field: its key, and the length as a varint."""
    head = bytearray((number << 3 | _LENGTH_DELIMITED,))
    while length > _SEVEN_BITS:
        head.append(length & _SEVEN_BITS | _SEVEN_BITS + 1)
        length >>= 7
    head.append(length)
    return bytes(head)


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
    if text.isascii() and "\0" not in text:  # at once: nearly all are
        return text
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
