# SPDX-License-Identifier: MPL-2.0
"""How MPS reads and writes memory limits and percentages, and what limits come to for a client."""

import re
from collections.abc import Mapping, Sequence

MIB = 1024 * 1024
GIB = 1024 * MIB

_INTEGER = re.compile(r"[+-]?\d+")
_FLOAT = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|\d+\.?\d*([eE][+-]?\d+)?|\.\d+)")
_WORD = 1 << 64


def read_size(text: str) -> int:
    """Bytes of `4G`, `512M` or `512`; 0, which is no limit, for what is not understood."""
    match = _INTEGER.match(text)
    if match is None:
        return 0
    unit = GIB if text[match.end() : match.end() + 1] in ("G", "g") else MIB
    return int(match[0]) * unit % _WORD


def read_percentage(text: str) -> float | None:
    """A percentage above 0 and up to 100, whatever follows it; None for any other."""
    match = _FLOAT.match(text)
    if match is None:
        return None
    number = float(int(match[0], 16)) if "x" in match[0].lower() else float(match[0])
    return number if 0 < number <= 100 else None


def read_ordinal(text: str) -> int | None:
    """A device's number; None for what is none, such as a UUID."""
    return int(text) if _INTEGER.fullmatch(text) else None


def write_size(size: int) -> str:
    """A limit as the tool prints it: in whole GiB, rounded down, and in MiB below that."""
    return f"{size // GIB}G" if size >= GIB else f"{size // MIB}M"


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
        device, size = _device(key.strip(), devices), read_size(text.strip())
        if device is None:
            return {}
        if size:
            limits[device] = min(size, limits.get(device, size))
    return limits
