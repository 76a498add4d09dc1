# SPDX-License-Identifier: MPL-2.0
"""What the kernel tells of a process: who it is, whose child, in which cgroup, with what environment.

Every process may end while it is read, and its number may be given to another: the identity of a
process is its pid together with its start time. Whatever cannot be read is None. The root of
`/proc` is handed in, so that tests can make one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

PROC = "/proc"

_STAT_BYTES = 1024
_COMM_LETTERS = 15
_CGROUP_BYTES = 1 << 16
_ENVIRON_BYTES = 1 << 20
"""More than any driver gives a task; a task that makes more of it claims nothing beyond that."""
_FIRST_PID_NAMESPACE = "pid:[4026531836]"


class Identity(NamedTuple):
    """A process beyond the reuse of its pid."""

    pid: int
    started: int
    """When it started, in the kernel's ticks since boot."""


class Standing(NamedTuple):
    """A process as it is now."""

    identity: Identity
    parent: int
    """The pid of its parent; 0 for none."""


class Proc:
    """Reads one `/proc`."""

    def __init__(self, root: str = PROC) -> None:
        """Reads nothing yet."""
        self.root = root

    def standing(self, pid: int) -> Standing | None:
        """Who has this pid now; None: nobody."""
        data = self._read(f"{pid}/stat", _STAT_BYTES)
        # The name of the program stands in brackets and may hold brackets and blanks itself.
        fields = (data or b"").rpartition(b")")[2].split()
        try:
            return Standing(Identity(pid, int(fields[19])), int(fields[1]))
        except (IndexError, ValueError):
            return None

    def is_roots(self, pid: int, program: str) -> bool:
        """Whether this is root's process of a program, by as much of its name as the kernel keeps."""
        name = (self._read(f"{pid}/comm", _STAT_BYTES) or b"").decode("utf-8", "replace").strip()
        try:
            uid = os.stat(f"{self.root}/{pid}").st_uid  # noqa: PTH116  pathlib costs more
        except OSError:
            return False
        return uid == 0 and name == program[:_COMM_LETTERS]

    def lives(self, who: Identity) -> bool:
        """Whether this very process still runs."""
        standing = self.standing(who.pid)
        return standing is not None and standing.identity == who

    def cgroups(self, pid: int | str) -> str | None:
        """The lines of the `cgroup` file of a process; of our own for `self`."""
        data = self._read(f"{pid}/cgroup", _CGROUP_BYTES)
        return None if data is None else data.decode("utf-8", "surrogateescape")

    def environment(self, pid: int, names: Iterable[str]) -> Mapping[str, str] | None:
        """What it was started with - or what it has put in its place, for a process may.

        Only the variables in `names`: the others may be secrets of the task, and are nobody's
        business here. Of one that is there twice, the first counts, as for the C library.
        """
        data = self._read(f"{pid}/environ", _ENVIRON_BYTES)
        if not data:
            return None  # an empty one belongs to a kernel thread, or to a process that just starts
        data = b"\0" + data
        found: dict[str, str] = {}
        for name in names:
            # Not all entries one by one: a task can make half a million of them.
            _, equals, rest = data.partition(f"\0{name}=".encode())
            if equals:
                found[name] = rest.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        return found

    def mounts(self) -> str:
        """The lines of our own `mountinfo`."""
        return (self._read("self/mountinfo", 1 << 22) or b"").decode("utf-8", "surrogateescape")

    def sees_host_pids(self) -> bool:
        """Whether our pids are those of the host, which are the driver's."""
        try:
            return os.readlink(f"{self.root}/self/ns/pid") == _FIRST_PID_NAMESPACE  # noqa: PTH115
        except OSError:
            return False

    def _read(self, path: str, most: int) -> bytes | None:
        # Not `open`: three system calls instead of nine, some hundred times per pass.
        try:
            file = os.open(f"{self.root}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            parts = []
            while most > 0 and (part := os.read(file, min(most, 1 << 16))):
                parts.append(part)
                most -= len(part)
            return b"".join(parts)
        except OSError:  # it has just ended, or is none of our business
            return None
        finally:
            os.close(file)
