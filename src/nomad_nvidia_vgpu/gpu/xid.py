# SPDX-License-Identifier: MPL-2.0
"""The driver's error codes (XIDs), by what NVIDIA's catalogue says is to be done at once.

An error of an application, or a notice, does not take a GPU away; all others do. The catalogue
is NVIDIA's for Ampere and newer ("Analyzing Xid Errors with the Xid Catalog", October 2025, as
tabulated in leptonai/gpud); what it does not list counts as a fault.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from typing import NamedTuple

from nomad_nvidia_vgpu.errors import Problem


class Remedy(Enum):
    """What makes a GPU usable again."""

    RESET = "drain the node and reset the GPU"
    REBOOT = "drain the node and reboot it"
    POWER = "drain the node and check the GPU's power cables"
    NVLINK = "drain the node and check its NVLink connections"
    SEE_LOG = "see dmesg, then drain the node and reset the GPU"


class Fault(NamedTuple):
    """What an XID says of a GPU."""

    xid: int
    meaning: str
    remedy: Remedy

    @property
    def problem(self) -> Problem:
        """What to tell the operator."""
        return Problem(f"XID {self.xid} ({self.meaning})", self.remedy.value)


def _ranges(*parts: int | tuple[int, int]) -> frozenset[int]:
    numbers: set[int] = set()
    for part in parts:
        numbers.update(range(part[0], part[1] + 1) if isinstance(part, tuple) else (part,))
    return frozenset(numbers)


APPLICATION = _ranges(
    *(8, 11, 13, 25, 31, 32, (39, 41), 43, 45, 60, (68, 72), (75, 77), 80),
    *((82, 86), 88, 89, 94, (96, 105), (126, 135), 137, 139),
)
"""The fault of a process, or one that only its process suffers from (94, contained ECC)."""

NOTICES = _ranges(
    *(14, 37, 38, 44, 63, 66, 67, 78, 92, 93, 106, 107, 108, 121, 141, 152, 153, 154),
    *(157, (160, 165)),
)
"""Reports. 154 says that the recovery action has changed, which is read at every look anyway."""

WHOLE_GPU = _ranges(54, 62, 74, 79, 119, 120, 143, (144, 150))
"""Of what all MIG devices share - the bus, power, firmware, links - whichever an event names."""

_FAULTS = {
    46: ("GPU stopped processing", Remedy.RESET),
    48: ("double-bit ECC error", Remedy.RESET),
    54: ("auxiliary power is missing", Remedy.POWER),
    62: ("internal micro-controller halted", Remedy.RESET),
    64: ("row remapping or page retirement failed", Remedy.RESET),
    74: ("NVLink error", Remedy.NVLINK),
    79: ("fell off the bus", Remedy.REBOOT),
    95: ("uncontained ECC error", Remedy.RESET),
    109: ("context switch timeout", Remedy.RESET),
    110: ("security fault", Remedy.RESET),
    119: ("GSP timeout", Remedy.RESET),
    120: ("GSP error", Remedy.RESET),
    136: ("link training failed", Remedy.RESET),
    140: ("ECC error that was not caught", Remedy.RESET),
    143: ("initialisation error", Remedy.RESET),
    151: ("key rotation error", Remedy.REBOOT),
    155: ("NVLink software error", Remedy.RESET),
    156: ("resource retirement", Remedy.RESET),
    158: ("fatal timeout", Remedy.RESET),
    **dict.fromkeys(range(144, 151), ("NVLink 5 error", Remedy.NVLINK)),
}


def fault(xid: int, fatal: Collection[int] = (), ignored: Collection[int] = ()) -> Fault | None:
    """What an XID does to a GPU, or None if it does not take the GPU away.

    `fatal` and `ignored` are the operator's and win over the catalogue. An XID that nobody has
    described takes the GPU away until its signals have been good for a while.
    """
    if xid in ignored:
        return None
    if xid not in fatal and xid in APPLICATION | NOTICES:
        return None
    meaning, remedy = _FAULTS.get(xid, ("not in NVIDIA's catalogue", Remedy.SEE_LOG))
    if xid in APPLICATION | NOTICES:
        meaning = "fatal by health.fatal_xids"
    return Fault(xid, meaning, remedy)
