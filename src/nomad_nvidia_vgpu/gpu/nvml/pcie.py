# SPDX-License-Identifier: MPL-2.0
"""PCI arithmetic: payload rates and bus ids."""

from __future__ import annotations

import os

_SYSFS = "/sys/bus/pci/devices"

_MB_S_PER_LANE_8B10B = {1: 250, 2: 500}
_GT_S_128B130B = {3: 8, 4: 16, 5: 32}
# PAM4 with 236 payload bytes in each 256-byte FLIT; sources differ by 3 % in what is overhead.
_MB_S_PER_LANE_FLIT = {6: 7375}


def bandwidth_mb_s(generation: int, width: int) -> int | None:
    """Payload in one direction, in decimal MB/s; None for a generation not known here."""
    if width <= 0:
        return None
    if per_lane := _MB_S_PER_LANE_8B10B.get(generation) or _MB_S_PER_LANE_FLIT.get(generation):
        return width * per_lane
    if gt_s := _GT_S_128B130B.get(generation):
        return width * gt_s * 1000 * 128 // (130 * 8)
    return None


def sysfs_bus_id(domain: int, bus: int, device: int, sysfs: str | os.PathLike[str] = _SYSFS) -> str:
    """The bus id as Linux spells it: lower case, with a domain of at least four digits.

    Nomad compares it with sysfs letter by letter. Old Azure drivers report domains of 32 bits of
    which sysfs has the lower 16 only.
    """
    bus_id = f"{domain:04x}:{bus:02x}:{device:02x}.0"
    short = f"{domain & 0xFFFF:04x}:{bus:02x}:{device:02x}.0"
    if short == bus_id:
        return bus_id

    def known(name: str) -> bool:
        return os.path.exists(os.path.join(sysfs, name))  # noqa: PTH110, PTH118  pathlib costs 5 ms

    return short if known(short) and not known(bus_id) else bus_id
