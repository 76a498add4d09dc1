# SPDX-License-Identifier: MPL-2.0
"""What an MPS daemon said of itself and its servers, and what of it is not as it should be; pure.

How the tool rounds limits: docs/internals/mps.md#limits
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from nomad_nvidia_vgpu.sharing.mps.limits import ORDINAL, Limits

ACTIVE, FAULT = "ACTIVE", "FAULT"

_MIB = {"": 2**-20, "K": 2**-10, "M": 1.0, "G": 2.0**10, "T": 2.0**20}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*%?")
_MAX_SHOWN = 120


class Server(NamedTuple):
    """One MPS server of a daemon."""

    pid: int
    status: str
    """ACTIVE, INITIALIZING, FAULT and others; "" when the tool cannot tell, as up to 535."""
    clients: tuple[int, ...] | None
    """The processes that use it, by pid; None: the tool does not tell."""
    memory: str = ""
    """The limit for its new clients in the tool's words; empty: it has none, or does not answer."""
    percentage: str = ""
    """The same of the SMs; empty: it does not answer."""

    @property
    def in_use(self) -> bool:
        """Whether it has clients, or may have."""
        return self.clients is None or bool(self.clients)

    @property
    def ready(self) -> bool:
        """Whether it answers: only then can limits be set on it, and clients be served."""
        return self.status == ACTIVE or (not self.status and bool(self.percentage))


class Reading(NamedTuple):
    """One look at a daemon."""

    servers: tuple[Server, ...]
    memory: str
    """The limit of servers to come, in the tool's words; empty: there is none."""
    percentage: str
    priority: str | None
    """`0` normal, `1` below normal, of clients to come; None: this tool has none."""

    @property
    def ready(self) -> tuple[Server, ...]:
        """The servers that answer."""
        return tuple(server for server in self.servers if server.ready)


class Unsettled(NamedTuple):
    """A setting that is not what it should be."""

    setting: str
    wanted: str
    read: str
    """What the tool answers instead, quoted."""

    @property
    def of_memory(self) -> bool:
        """Whether it is the limit of the memory."""
        return "mem_limit" in self.setting


class _Setting(NamedTuple):
    """One setting with what it is and what it should be."""

    command: str
    """Without the `set_` before it and the value after it."""
    read: str
    wanted: str

    def holds(self, *, rounded: bool = True) -> bool:
        """Whether it reads back as wanted; `rounded`: as nearly as the tool shows it."""
        if "mem_limit" in self.command:
            return _same_size(self.read, self.wanted, rounded=rounded)
        return _same_number(self.read, self.wanted)


def corrections(reading: Reading, limits: Limits, *, again: bool = False) -> list[str]:
    """The commands that bring limits and priority into force where they are not.

    `again`: also where they only seem to be, since they read back rounded.
    """
    return [
        f"set_{each.command} {each.wanted}"
        for each in _settings(reading, limits)
        if not each.holds(rounded=not again)
    ]


def unsettled(reading: Reading, limits: Limits) -> list[Unsettled]:
    """What is not as wanted."""
    return [
        Unsettled(each.command.split(maxsplit=1)[0], each.wanted, _shown(each.read))
        for each in _settings(reading, limits)
        if not each.holds()
    ]


def _settings(reading: Reading, limits: Limits) -> Iterator[_Setting]:
    percentage, size = str(limits.thread_percentage or 100), f"{limits.memory_mib}M"
    limited = limits.memory_mib is not None
    yield _Setting("default_active_thread_percentage", reading.percentage, percentage)
    if limited:
        yield _Setting(f"default_device_pinned_mem_limit {ORDINAL}", reading.memory, size)
    # A tool without priorities has the normal one.
    if reading.priority is not None or limits.priority:
        yield _Setting("default_client_priority", reading.priority or "", str(limits.priority))
    for server in reading.ready:
        yield _Setting(f"active_thread_percentage {server.pid}", server.percentage, percentage)
        if limited:
            yield _Setting(f"device_pinned_mem_limit {server.pid} {ORDINAL}", server.memory, size)


def _same_number(read: str, wanted: str) -> bool:
    """Whether a number reads back as set; `25.0` is 25."""
    match = _NUMBER.fullmatch(read.strip())
    return match is not None and float(match[1]) == float(wanted)


def _same_size(read: str, wanted: str, *, rounded: bool = True) -> bool:
    """Whether a size reads back as set, whatever the unit; a bare number is bytes.

    `rounded`: the tool shows whole GiB, rounded down (`3G` for 3840M).
    """
    match, wanted_mib = _SIZE.fullmatch(read.strip()), float(wanted.removesuffix("M"))
    if match is None:
        return False
    number, unit = match[1], match[2].upper()
    if unit == "G" and number.isdigit():
        return rounded and int(number) == wanted_mib // 1024 > 0
    return float(number) * _MIB[unit] == wanted_mib


def _shown(said: str) -> str:
    line = " ".join(said.split())
    return repr(line[:_MAX_SHOWN]) if line else "no word"
