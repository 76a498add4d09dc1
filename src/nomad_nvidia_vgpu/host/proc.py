# SPDX-License-Identifier: MPL-2.0
"""What the kernel tells of a process: its identity, parent, cgroup and environment.

Every process may end while it is read, and its number may be given to another: the identity of a
process is its pid together with its start time. Whatever cannot be read is None. The root of
`/proc` is handed in, so that tests can make one.

An environment is in the memory of its process, and the kernel waits for a lock of that memory: a
thread that reads the environment of a process stuck with that lock is stuck, too. So
environments, and nothing else here, are read by a thread that is given up after a while. The
process is then passed over until the thread returns.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

PROC = "/proc"

PATIENCE_S = 2.0
"""How long the kernel may take to read one environment before its process counts as stuck."""

_STAT_BYTES = 1024
_STATUS_BYTES = 4096
_WORDS_BYTES = 1 << 16
_MAPS_BYTES = 1 << 22
_ENDED = (b"Z", b"X")
"""States of a process that has ended, and of which somebody has still to be told."""
_CGROUP_BYTES = 1 << 16
_ENVIRON_BYTES = 1 << 20
"""More than any driver gives a task; a task that makes more of it claims nothing beyond that."""
_VALUE_BYTES = 1 << 17
"""The longest variable that the kernel takes when it starts a program (MAX_ARG_STRLEN)."""
_MOST_WAITING = 4
"""Environments that are read and not yet looked at: a task can make each as long as it may be."""
_FIRST_PID_NAMESPACE = "pid:[4026531836]"

_log = logging.getLogger(__name__)


class Identity(NamedTuple):
    """A process beyond the reuse of its pid."""

    pid: int
    started: int
    """When it started, in the kernel's ticks since boot."""

    @property
    def started_s(self) -> float:
        """When it started, in seconds since boot."""
        return self.started / os.sysconf("SC_CLK_TCK")


class Standing(NamedTuple):
    """A process as it is now."""

    identity: Identity
    parent: int
    """The pid of its parent; 0 for none."""


class _Answers(queue.SimpleQueue["Mapping[str, str] | None"]):
    """What one thread has read; it waits while too much of that is not looked at yet."""

    def __init__(self) -> None:
        super().__init__()
        self.room = threading.Semaphore(_MOST_WAITING)
        self.left = False
        """Whether nobody looks at them any more."""


class Proc:
    """Reads one `/proc`; thread-safe."""

    def __init__(self, root: str = PROC, patience_s: float = PATIENCE_S) -> None:
        """Reads nothing yet."""
        self.root = root
        self._patience_s = patience_s
        self._lock = threading.Lock()  # guards what follows
        self._stuck: dict[_Answers, int] = {}
        """The pids that threads hang on, by what they would have answered to."""

    def pids(self) -> list[int]:
        """All processes that run; OSError where there is no `/proc`."""
        names = os.listdir(self.root)  # noqa: PTH208  some hundred names, no more
        return [int(name) for name in names if name.isdecimal()]

    def standing(self, pid: int) -> Standing | None:
        """The process that has this pid now; None: there is none."""
        _, fields = self._stat(pid)
        try:
            return Standing(Identity(pid, int(fields[19])), int(fields[1]))
        except (IndexError, ValueError):
            return None

    def called(self, pid: int) -> bytes | None:
        """The name of its program, as far as the kernel keeps it (15 bytes); None: it has ended.

        Does not wait for a process that is stuck, as `words` does.
        """
        name, fields = self._stat(pid)
        return None if not fields or fields[0] in _ENDED else name

    def parent(self, pid: int) -> int | None:
        """The pid of its parent; None: it has ended."""
        _, fields = self._stat(pid)
        try:
            return int(fields[1])
        except (IndexError, ValueError):
            return None

    def _stat(self, pid: int) -> tuple[bytes, list[bytes]]:
        """The name of the program, and the fields from the state on; nothing if it has ended."""
        data = self._read(f"{pid}/stat", _STAT_BYTES) or b""
        # The name stands in brackets, and may hold brackets and blanks itself.
        before, _, rest = data.rpartition(b")")
        return before.partition(b"(")[2], rest.split()

    def user(self, pid: int) -> int | None:
        """The uid of who started a process; None: nobody, or it cannot be read.

        Also if the program is set-uid. Not the owner of its files in `/proc`: those are root's if
        the process asks for no core dumps.
        """
        status = self._read(f"{pid}/status", _STATUS_BYTES) or b""
        _, _, found = (b"\n" + status).partition(b"\nUid:")
        try:
            return int(found.split(maxsplit=1)[0])
        except (IndexError, ValueError):
            return None

    def words(self, pid: int) -> list[str]:
        """Its command line; none if it has ended. Waits for as long as the process is stuck."""
        line = self._read(f"{pid}/cmdline", _WORDS_BYTES) or b""
        return line.decode("utf-8", "surrogateescape").split("\0") if line else []

    def mapped(self, pid: int) -> list[str] | None:
        """The paths of the files in its memory; None: it has ended, or is none of our business."""
        maps = self._read(f"{pid}/maps", _MAPS_BYTES)
        if not maps:
            return None
        lines = maps.decode("utf-8", "surrogateescape").split("\n")
        return [line.split(maxsplit=5)[-1] for line in lines if line]

    def age_s(self, pid: int) -> float | None:
        """How long it has run; None: that is not known."""
        standing, uptime_s = self.standing(pid), self.uptime_s()
        if standing is None or uptime_s is None:
            return None
        return max(0.0, uptime_s - standing.identity.started_s)

    def uptime_s(self) -> float | None:
        """How long ago the node was booted; None: that is not known."""
        try:
            return float((self._read("uptime", _STAT_BYTES) or b"").split()[0])
        except (ValueError, IndexError):
            return None

    def sees_our_files(self, pid: int) -> bool:
        """Whether a path means the same to a process as to us."""
        try:
            return all(
                os.readlink(f"{self.root}/{pid}/{link}")  # noqa: PTH115
                == os.readlink(f"{self.root}/self/{link}")  # noqa: PTH115
                for link in ("ns/mnt", "root")
            )
        except OSError:
            return False

    def lives(self, who: Identity) -> bool:
        """Whether this very process still runs."""
        standing = self.standing(who.pid)
        return standing is not None and standing.identity == who

    def cgroups(self, pid: int | str) -> str | None:
        """The lines of the `cgroup` file of a process; of our own for `self`."""
        data = self._read(f"{pid}/cgroup", _CGROUP_BYTES)
        return None if data is None else data.decode("utf-8", "surrogateescape")

    def environment(self, pid: int, names: Collection[str]) -> Mapping[str, str] | None:
        """What it was started with - or what it has put in its place, which a process may.

        Only the variables in `names`: the others may be secrets of the task, and are nobody's
        business here. Of one that is there twice, the first counts, as for the C library. None
        also while the process is `stuck`.
        """
        return next((found for _, found in self.environments([pid], names)), None)

    def environment_at_last(self, pid: int, names: Collection[str]) -> Mapping[str, str] | None:
        """As `environment`, but waits for as long as the process is stuck."""
        data = self._read(f"{pid}/environ", _ENVIRON_BYTES)
        return None if data is None else _variables(data, names)

    def environments(
        self, pids: Iterable[int], names: Collection[str], variable: str | None = None
    ) -> Iterator[tuple[int, Mapping[str, str]]]:
        """As `environment`, of those of `pids` that let theirs be read, and have `variable` in it.

        Each with its pid. However many there are, few are in memory at a time.
        """
        left = [pid for pid in pids if not self.stuck(pid)]
        while left:
            answers = _Answers()
            asked, left = left, []
            # One thread for all: to wait for one after the other would cost more than to read.
            threading.Thread(
                target=self._answer,
                args=(asked, names, variable, answers),
                name="environ",
                daemon=True,
            ).start()
            try:
                for number, pid in enumerate(asked, 1):
                    try:
                        found = self._next(answers, pid)
                    except queue.Empty:
                        left = asked[number:]
                        break
                    if found is not None:
                        yield pid, found
                    found = None
                    answers.room.release()
            finally:
                answers.left = True
                answers.room.release()

    def stuck(self, pid: int) -> bool:
        """Whether a thread hangs on its environment."""
        with self._lock:
            return pid in self._stuck.values()

    def _next(self, answers: _Answers, pid: int) -> Mapping[str, str] | None:
        """The next answer, which is that of `pid`; queue.Empty when it is given up."""
        try:
            return answers.get(timeout=self._patience_s)
        except queue.Empty:
            with self._lock:
                if not answers.empty():
                    return answers.get()
                known = pid in self._stuck.values()
                self._stuck[answers] = pid
            if not known:
                _log.warning(
                    "process %d is stuck: the kernel has not let its environment be read for %g s,"
                    " so if it belongs to a task with vGPUs, stats may lack what that task uses,"
                    " and the memory guard may not act on it, until it can be read or ends: see"
                    " what it waits for in /proc/%d/wchan and dmesg, and end it, or reboot the"
                    " node if it cannot be ended",
                    pid,
                    self._patience_s,
                    pid,
                )
            raise

    def _answer(
        self,
        pids: Iterable[int],
        names: Collection[str],
        variable: str | None,
        answers: _Answers,
    ) -> None:
        for pid in pids:
            answers.room.acquire()
            if answers.left:
                return
            data = self._read(f"{pid}/environ", _ENVIRON_BYTES)
            # An empty one belongs to a kernel thread, or to a process that just starts.
            found = _variables(data, names) if data else None
            if found is not None and variable is not None and variable not in found:
                found = None
            with self._lock:
                answers.put(found)
                if self._stuck.pop(answers, None) is not None:
                    return  # it was given up: another thread asks for the rest

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


def _variables(data: bytes, names: Collection[str]) -> dict[str, str]:
    data = b"\0" + data
    found: dict[str, str] = {}
    for name in names:
        # Not all entries one by one, nor copies of the rest: a task can make half a million of them.
        mark = f"\0{name}=".encode()
        start = data.find(mark)
        if start >= 0:
            start += len(mark)
            end = data.find(b"\0", start, start + _VALUE_BYTES)
            value = data[start : end if end >= 0 else start + _VALUE_BYTES]
            found[name] = value.decode("utf-8", "surrogateescape")
    return found
