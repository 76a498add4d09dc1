# SPDX-License-Identifier: MPL-2.0
"""The MPS control daemon of one GPU: its directories, its life, and what it has in force.

A daemon outlives this process, and so do the tasks that use it: Nomad restores them after an
agent restart without a word to us. So it is adopted when it is there, started when it is not,
and ended only when nobody uses it (docs/internals/mps.md#the-daemon).
"""

from __future__ import annotations

import json
import logging
import os
import select
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nomad_nvidia_vgpu.errors import MpsError
from nomad_nvidia_vgpu.host.files import read_bounded
from nomad_nvidia_vgpu.host.locks import lock_holder
from nomad_nvidia_vgpu.host.proc import PROC, Proc
from nomad_nvidia_vgpu.sharing.mps.control import QUIT_S, MpsControl
from nomad_nvidia_vgpu.sharing.mps.layout import (
    CONTROL_LOCK,
    CONTROL_LOG,
    LOG,
    PIPE,
    PIPE_ENV,
    PROGRAM,
    RECORD,
    SERVER_PROGRAM,
)
from nomad_nvidia_vgpu.sharing.mps.limits import Limits
from nomad_nvidia_vgpu.sharing.mps.reading import Reading, Unsettled, corrections, unsettled

_END_S = 3.0
_SERVER_S = 2.0
_MAX_RECORD = 1 << 16
_NAME = PROGRAM[:15].encode()
"""What the kernel keeps of the names of both programs."""
_POLL_S = 0.02

_log = logging.getLogger(__name__)


class Record(NamedTuple):
    """How a daemon was started; kept beside it for the process that adopts it."""

    uuid: str
    multi_user_asked: bool
    multi_user: bool
    """Whether it has it; not every driver does."""
    memory_limited: bool
    """Whether it was given memory limits: a limit once set cannot be taken off."""
    driver: str = ""
    """The version of the driver it was started under; empty: not known."""


class MpsDaemon:
    """One GPU's daemon, running or not. Every call may take some seconds; MpsError, OSError."""

    def __init__(
        self, directory: Path, uuid: str, program: str = PROGRAM, proc: Path = Path(PROC)
    ) -> None:
        """`directory` is the GPU's own; `program` is the tool, needed to speak to the daemon."""
        self._directory = directory
        self._uuid = uuid
        self._proc = Proc(str(proc))
        self._control = MpsControl(directory, uuid, program)

    def alive(self) -> bool:
        """Whether its process is there, answering or not; needs no tool."""
        return self.pid() is not None

    def pid(self) -> int | None:
        """Its process, answering or not; None if it has none, 0 if it is not ours to see.

        It holds a lock for as long as it lives. The pid file is not written by every version, and
        anybody may write into it.
        """
        try:
            holder = lock_holder(self._directory / CONTROL_LOCK)
        except OSError:
            return None  # no lock file, whatever is there
        if not holder:
            return holder
        # Once the daemon is dead any user can lock the file.
        ours = self._proc.user(holder) in (0, os.geteuid())
        return holder if ours and self._proc.called(holder) == _NAME else None

    def start(self, record: Record) -> None:
        """Starts it as `record` asks, with directories that any user's task can use."""
        if any(self.orphaned_servers()):
            raise MpsError(
                f"{self._uuid}: its MPS daemon has died and its {SERVER_PROGRAM} goes on for the"
                " tasks that use it",
                "stop them, or drain the node; a new daemon is started by itself",
            )
        # Containers may have the old one mounted, and what they put into it must not be met.
        self._clear(self._directory / PIPE)
        for part in (self._directory, self._directory / PIPE, self._directory / LOG):
            part.mkdir(exist_ok=True)
            part.chmod(0o755)
        self._write(record)
        has_it = self._control.start(multi_user=record.multi_user_asked)
        self._write(record._replace(multi_user=has_it))
        if not self.alive():
            raise MpsError(
                f"{self._uuid}: its MPS daemon ended right after its start",
                f"see {self._directory / CONTROL_LOG}",
            )
        _log.info("%s has an MPS daemon now, in %s", self._uuid, self._directory)

    def stop(self) -> None:
        """Ends it; the caller knows that nobody uses it."""
        pid = self.pid()
        self._control.quit()
        if pid is not None and not _ended(pid, _END_S + QUIT_S):
            raise MpsError(
                f"{self._uuid}: its MPS daemon (pid {pid}) does not end",
                "drain the node and kill it",
            )
        _log.info("%s: its MPS daemon was ended", self._uuid)

    def read(self) -> Reading:
        """What it says of itself and its servers."""
        return self._control.read()

    def start_server(self) -> Reading:
        """Starts its server, so that one holds the GPU before the first task does.

        Returns what it says after a moment; the server may take longer to be ready.
        """
        self._control.tell("start_server -uid 0")
        deadline, pause_s = time.monotonic() + _SERVER_S, _POLL_S
        while not (reading := self.read()).ready and time.monotonic() < deadline:
            time.sleep(pause_s)
            pause_s *= 2
        return reading

    def settle(
        self, limits: Limits, reading: Reading, *, change: bool, again: bool
    ) -> list[Unsettled]:
        """Sees to the settings for new clients of all servers that answer; what is not as wanted.

        `again`: also sets what only seems to be in force, since it reads back rounded.
        """
        commands = corrections(reading, limits, again=again) if change else []
        if commands:
            self._control.tell(*commands)
            reading = self.read()
        return unsettled(reading, limits)

    def record(self) -> Record | None:
        """How it was started, None when that is not known."""
        try:
            found = json.loads(read_bounded(self._directory / RECORD, _MAX_RECORD))
            record = Record(**found)
        except (OSError, ValueError, TypeError):
            return None
        return record if isinstance(record.uuid, str) else None

    def remove(self) -> None:
        """Removes the directories of a daemon that has ended; MpsError while one lives."""
        self._clear(self._directory)

    def _clear(self, directory: Path) -> None:
        if self.alive():
            raise MpsError(
                f"{self._uuid}: an MPS daemon (pid {self.pid()}) lives in {self._directory}",
                "end it first",
            )
        shutil.rmtree(directory, ignore_errors=True)

    def _write(self, record: Record) -> None:
        fresh = self._directory / f"{RECORD}.new"
        fresh.write_text(json.dumps(record._asdict()))
        fresh.replace(self._directory / RECORD)

    def orphaned_servers(self) -> Iterator[int]:
        """The servers of its pipe directory by pid, to be asked for when no daemon is there.

        A task has the same variable, and can call itself what it likes. But the server of all users
        is its daemon's user's; that of one user only is that user's, and cannot be told from a task.
        May wait for as long as a process is stuck that is called as MPS is; for no other.
        """
        record = self.record()
        any_user = record is not None and not record.multi_user
        pipe = str(self._directory / PIPE)
        for pid in self._proc.pids():
            # By its name first: the kernel waits for a lock of the process before it shows its
            # command line, and a process that is stuck may hold it.
            if self._proc.called(pid) != _NAME:
                continue
            if not any_user and self._proc.user(pid) not in (0, os.geteuid()):
                continue
            if any(SERVER_PROGRAM in word for word in self._proc.words(pid)):
                environment = self._proc.environment_at_last(pid, [PIPE_ENV]) or {}
                if environment.get(PIPE_ENV) == pipe:
                    yield pid


def known_uuids(root: Path) -> list[str]:
    """The GPUs that have a daemon's directory under `root`."""
    try:
        entries = sorted(root.iterdir())
    except OSError:
        return []
    records = (MpsDaemon(e, e.name).record() for e in entries if e.is_dir())
    return [record.uuid for record in records if record is not None]


def daemon_pids(root: str, proc: str) -> set[int]:
    """The daemons under `root` that live."""
    try:
        directories = list(Path(root).iterdir())
    except OSError:
        return set()
    found = (MpsDaemon(each, each.name, proc=Path(proc)).pid() for each in directories)
    return {pid for pid in found if pid}


def _ended(pid: int, timeout_s: float) -> bool:
    """Whether a process has ended, at once or within `timeout_s`."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:
        return _vanished(pid, timeout_s)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000))
    finally:
        os.close(pidfd)


def _vanished(pid: int, timeout_s: float) -> bool:
    """The same by looking again and again: Linux before 5.3 has nothing to wait on."""
    deadline = time.monotonic() + timeout_s
    while Proc().standing(pid) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True
