# SPDX-License-Identifier: MPL-2.0
"""How MPS reads and writes memory limits and percentages, and what limits come to for a client."""

import re
from collections.abc import Mapping, Sequence

MIB = 1024 * 1024
GIB = 1024 * MIB

_SIZE = re.compile(r"([1-9]\d*)([MG])B?")


def read_size(text: str) -> int | None:
    """Bytes of `4G`, `512M` or `512MB`; None for what is not understood."""
    match = _SIZE.fullmatch(text.strip().upper())
    return int(match[1]) * (GIB if match[2] == "G" else MIB) if match else None


def read_percentage(text: str) -> float | None:
    """A percentage above 0 and up to 100; None for what is not understood."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number <= 100 else None


def write_size(size: int, form: str) -> str:
    """A limit in one of the forms of `LimitForm`."""
    if form == "bytes":
        return str(size)
    whole_gib = size % GIB == 0
    if form == "floor_gib":
        return f"{size // GIB}G" if size >= GIB else f"{size // MIB}M"
    if form == "mib":
        return f"{size // MIB}M"
    if form == "mb":
        return f"{size // MIB}MB"
    if form == "spaced":
        return f"{size // GIB} GB" if whole_gib else f"{size // MIB} MB"
    return f"{size // GIB}G" if whole_gib else f"{size // MIB}M"


def visible(wanted: str | None, devices: Sequence[str]) -> list[str]:
    """Which of `devices` a process sees; like CUDA, up to the first name that means nothing."""
    if wanted is None:
        return list(devices)
    seen: list[str] = []
    for name in (part.strip() for part in wanted.split(",")):
        device = _device(name, devices)
        if device is None:
            break
        seen.append(device)
    return seen


def _device(name: str, devices: Sequence[str]) -> str | None:
    if name.isdecimal():
        return devices[int(name)] if int(name) < len(devices) else None
    return next((device for device in devices if name and device.startswith(name)), None)


def memory_limits(
    own: str | None, server: Mapping[str, int], devices: Sequence[str]
) -> dict[str, int]:
    """Bytes per device for a client that sees `devices` and has `own` in its environment.

    A client can only lower what the server has, but one key for a device that it does not see
    drops every limit, the server's too.
    """
    limits = {device: size for device, size in server.items() if device in devices}
    for entry in filter(None, (own or "").split(",")):
        key, _, text = entry.partition("=")
        device, size = _device(key.strip(), devices), read_size(text)
        if device is None:
            return {}
        if size is not None:
            limits[device] = min(size, limits.get(device, size))
    return limits
