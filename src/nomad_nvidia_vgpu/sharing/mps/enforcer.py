# SPDX-License-Identifier: MPL-2.0
"""Keeps one MPS control daemon per GPU running with the limits of the config; an `Enforcer`.

One process of a node does so at a time, the one that holds the lock under `mps.root`. Another
(the plugin of an agent that was killed a moment ago, `nvidia-vgpu launch` beside an agent) only
looks, and says what it sees.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from nomad_nvidia_vgpu.config.options import MpsConfig
from nomad_nvidia_vgpu.errors import NOTHING, HardwareError, MpsError, Problem, problem_of, together
from nomad_nvidia_vgpu.gpu.model import EXCLUSIVE_PROCESS, ComputeModes, Gpu
from nomad_nvidia_vgpu.host.files import unsafe
from nomad_nvidia_vgpu.sharing.enforcement import Enforcement
from nomad_nvidia_vgpu.sharing.mps.compute_mode import ComputeModeJournal
from nomad_nvidia_vgpu.sharing.mps.control import Server, Unsettled, find_program
from nomad_nvidia_vgpu.sharing.mps.daemon import (
    FAULT,
    MpsDaemon,
    Record,
    known_uuids,
)
from nomad_nvidia_vgpu.sharing.mps.layout import JOURNAL, LOCK, LOG, SERVER_LOG, gpu_directory
from nomad_nvidia_vgpu.sharing.mps.limits import Limits, server_limits
from nomad_nvidia_vgpu.sharing.mps.logs import bound_logs

_SERVER_TRIES = 3


class Target(NamedTuple):
    """A GPU and what is to be in force there."""

    gpu: Gpu
    vgpus: int
    limits: Limits


class MpsEnforcer:
    """The MPS daemons of this node."""

    def __init__(self, config: MpsConfig, modes: ComputeModes) -> None:
        """Touches nothing yet."""
        self._config = config
        self._root = Path(config.root)
        self._modes = modes
        self._journal = ComputeModeJournal(self._root / JOURNAL, modes)
        self._lock = threading.Lock()  # of `_owner`
        self._owner: int | None = None
        self._begun: set[str] = set()
        self._without_server: Counter[str] = Counter()
        """How many passes in a row found no server on a GPU, and told the daemon to start one."""
        self._imposed: dict[str, tuple[Limits, tuple[int, ...]]] = {}
        """The limits that this process set on each GPU, and on which servers, by pid."""

    def keep(self, gpu: Gpu, vgpus: int, memory_percent: int = 100) -> Enforcement:
        """Starts, adopts or fixes the daemon of `gpu`, and reads its limits back."""
        try:
            program = find_program()
            self._prepare_root()
            directory = Path(gpu_directory(self._config, gpu.uuid))
            daemon = MpsDaemon(directory, gpu.uuid, program)
            owner = self._owns()
            if owner:
                bound_logs(directory / LOG)
            servers = self._ensured(daemon, gpu) if owner else _running(daemon, gpu.uuid)
            limits = server_limits(self._config, gpu, vgpus, memory_percent)
            return self._settle(daemon, Target(gpu, vgpus, limits), servers, owner=owner)
        except (HardwareError, OSError) as error:
            return Enforcement(problem=_sentence(gpu.uuid, error))

    def holds(self, uuid: str) -> bool:
        """Whether a daemon's directory, or a changed compute mode, is left."""
        return Path(gpu_directory(self._config, uuid)).exists() or uuid in self._noted()

    def release(self, uuid: str) -> Problem:
        """Ends the daemon of a GPU that is not shared by MPS any more, once nobody uses it."""
        try:
            self._prepare_root()
            if not self._owns():
                raise MpsError(
                    f"{uuid}: another process of this plugin keeps its MPS daemon", "end that first"
                )
            directory = Path(gpu_directory(self._config, uuid))
            daemon = MpsDaemon(directory, uuid)
            if daemon.alive():
                _end(MpsDaemon(directory, uuid, find_program()), uuid)
            elif any(daemon.orphaned_servers()):
                raise MpsError(_still_shared(uuid))
            daemon.remove()
            self._journal.restore(uuid)
        except (HardwareError, OSError) as error:
            return _sentence(uuid, error)
        self._begun.discard(uuid)
        return NOTHING

    def left_over(self) -> list[str]:
        """Every GPU that has a daemon's directory or a changed compute mode."""
        try:
            self._check_root()
        except (MpsError, OSError):
            return []  # not there, or not ours: nothing in it is to be believed
        return sorted({*known_uuids(self._root), *self._noted()})

    def _noted(self) -> list[str]:
        """The GPUs in the journal; none while it cannot be read, which `keep` tells."""
        try:
            return self._journal.uuids()
        except OSError:
            return []

    def _ensured(self, daemon: MpsDaemon, gpu: Gpu) -> list[Server]:
        """The servers of the daemon: started where there is none, again where that hurts nobody."""
        servers = daemon.servers() if daemon.running() else None
        if servers is not None and self._should_be_renewed(daemon, gpu.uuid, servers):
            daemon.stop()
            servers = None
        if not servers or gpu.uuid not in self._begun:
            self._set_compute_mode(gpu)  # with the server, a reset of the GPU took it away too
        if servers is None:
            daemon.start(
                multi_user=self._config.multi_user, memory_limited=self._config.memory_limit
            )
            del self._without_server[gpu.uuid]  # this daemon was not told to start one yet
            self._imposed.pop(gpu.uuid, None)
        self._begun.add(gpu.uuid)
        return servers or []

    def _should_be_renewed(self, daemon: MpsDaemon, uuid: str, servers: list[Server]) -> bool:
        """Whether it is not what it should be, and nobody uses it."""
        if any(server.in_use for server in servers):
            return False
        record = daemon.record()
        faulty = any(server.status == FAULT for server in servers)
        refused = record is not None and record.multi_user_asked and not record.multi_user
        # The driver may have learned it since: each process of ours tries once.
        return faulty or self._differs(record) or (refused and uuid not in self._begun)

    def _differs(self, record: Record | None) -> bool:
        asked = (self._config.multi_user, self._config.memory_limit)
        return record is not None and (record.multi_user_asked, record.memory_limited) != asked

    def _settle(
        self, daemon: MpsDaemon, target: Target, servers: list[Server], *, owner: bool
    ) -> Enforcement:
        """What is in force; sets the limits first if this process is the `owner`."""
        gpu, vgpus, limits = target
        if any(server.status == FAULT for server in servers):
            raise MpsError(
                f"{gpu.uuid}: a task's fault has put its MPS server into FAULT",
                "stop the tasks on this GPU; the server is started again once they have ended",
            )
        record = daemon.record()
        if owner:
            servers = self._hold_gpu(daemon, gpu.uuid, record, servers)
        imposed = (limits, tuple(server.pid for server in servers))
        again = owner and self._imposed.get(gpu.uuid) != imposed
        unsettled = daemon.settle(limits, servers, change=owner, again=again)
        self._imposed[gpu.uuid] = imposed
        if unsettled and not owner:
            raise MpsError(
                f"{gpu.uuid}: another process of this plugin keeps its MPS daemon, with other limits",
                "end that process",
            )
        exclusive, why_not = self._exclusive(gpu, vgpus)
        weaknesses = [
            *(_unsettled_sentence(gpu.uuid, one) for one in unsettled),
            self._record_sentence(gpu.uuid, record),
            why_not,
            self._unreachable(gpu.uuid),
        ]
        return Enforcement(
            holds_memory=limits.memory_mib is not None
            and exclusive
            and (bool(servers) or not (record and record.multi_user))
            and not any(one.of_memory for one in unsettled),
            weakness=together(weaknesses),
        )

    def _record_sentence(self, uuid: str, record: Record | None) -> Problem:
        if self._differs(record):
            return Problem(
                f"{uuid}",
                (
                    "its MPS daemon was started with other mps options and is renewed once the tasks that use it have ended"
                ),
            )
        if record is not None and record.multi_user_asked and not record.multi_user:
            return Problem(
                (
                    f"{uuid}: this driver's MPS has no multi-user mode, so a task waits while tasks of"
                    " another user use this GPU"
                ),
                "run them as one user, or set mps.multi_user = false",
            )
        return NOTHING

    def _hold_gpu(
        self, daemon: MpsDaemon, uuid: str, record: Record | None, servers: list[Server]
    ) -> list[Server]:
        """Sees that a server holds the GPU, and returns those there are; MpsError if none starts.

        EXCLUSIVE_PROCESS lets one process in, whichever comes first: until there is a server, a
        task that does not find the daemon would have the whole GPU. Only a server of all users can
        be started before it is known whose task comes.
        """
        if servers or record is None or not record.multi_user:
            del self._without_server[uuid]
            return servers
        self._without_server[uuid] += 1
        with contextlib.suppress(MpsError):  # it opens the GPU, which takes seconds on some
            servers = daemon.start_server()
        if not servers and self._without_server[uuid] >= _SERVER_TRIES:
            raise MpsError(
                f"{uuid}: its MPS server does not start",
                f"see who uses the GPU (nvidia-smi), and {gpu_directory(self._config, uuid)}/{SERVER_LOG}",
            )
        return servers

    def _set_compute_mode(self, gpu: Gpu) -> None:
        if gpu.parent_uuid is not None:
            return
        if not self._config.exclusive_process:
            self._journal.restore(gpu.uuid)
            return
        try:
            self._journal.set_exclusive(gpu.uuid)
        except HardwareError as error:
            raise MpsError(
                error.problem.sentence,
                f"{error.problem.remedy}; or set mps.exclusive_process = false",
            ) from error

    def _exclusive(self, gpu: Gpu, vgpus: int) -> tuple[bool, Problem]:
        """Whether nothing can run beside the MPS server, and if it should and does not, why."""
        if gpu.parent_uuid is not None:
            sentence = Problem(
                f"{gpu.uuid} is a MIG device, which has no compute mode",
                "a process that drops its MPS variables runs beside the MPS server, without limits",
            )
            return False, sentence if vgpus > 1 else NOTHING
        mode = self._modes.compute_mode(gpu.uuid)
        if mode == EXCLUSIVE_PROCESS:
            return True, NOTHING
        sentence = Problem(
            (
                f"{gpu.uuid} is in compute mode {mode or 'unknown'}, so a process can run beside its"
                " MPS server, without limits"
            ),
            f"nvidia-smi -i {gpu.uuid} -c {EXCLUSIVE_PROCESS}, or restart the Nomad agent",
        )
        return False, sentence if self._config.exclusive_process else NOTHING

    def _owns(self) -> bool:
        """Whether this process is the one that changes things; it stays so until it ends."""
        with self._lock:
            if self._owner is None:
                lock = os.open(
                    self._root / LOCK,
                    os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
                    0o600,
                )
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(lock)
                    return False
                self._owner = lock
            return True

    def _unreachable(self, uuid: str) -> Problem:
        """Why tasks that are not root's could not get to the daemon, if they could not."""
        for path in (self._root, *self._root.parents):
            if not path.stat().st_mode & stat.S_IXOTH:
                return Problem(
                    (
                        f"{uuid}: only root can enter {path}, so tasks of other users cannot reach its MPS"
                        " daemon"
                    ),
                    f"chmod o+x {path}, or set another mps.root",
                )
        return NOTHING

    def _prepare_root(self) -> None:
        """Makes the directory, and sees that no other user can put anything into it; MpsError.

        The daemons run as root and tasks of all users go through it.
        """
        for path in (*reversed(self._root.parents), self._root):
            if not path.exists():
                path.mkdir(0o755, exist_ok=True)
                self._check_way(path)
                path.chmod(0o755)
        self._check_root()

    def _check_root(self) -> None:
        """Sees that the directory is ours alone; MpsError, OSError when there is none."""
        found = self._root.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise MpsError(
                f"mps.root {self._root} is not a directory of the user that the Nomad agent runs as",
                "remove it, or set another",
            )
        self._check_way(self._root)

    def _check_way(self, path: Path) -> None:
        """Sees that nobody else can put a link in its place after any look at it; MpsError."""
        if (why := unsafe(str(path), {0, os.geteuid()})) is not None:
            raise MpsError(
                f"mps.root {self._root} can be changed by other users ({why})",
                "fix that, or set another",
            )


def _running(daemon: MpsDaemon, uuid: str) -> list[Server]:
    """The servers of a daemon that another process keeps."""
    if not daemon.running():
        raise MpsError(
            (
                f"{uuid} has no MPS daemon, and another process of this plugin keeps the daemons of"
                " this node"
            ),
            "end that process",
        )
    return daemon.servers()


def _end(daemon: MpsDaemon, uuid: str) -> None:
    """Ends a daemon that nobody uses any more."""
    if any(server.in_use for server in daemon.servers()):
        raise MpsError(_still_shared(uuid))
    daemon.stop()


def _still_shared(uuid: str) -> Problem:
    return Problem(
        (f"{uuid} is still shared by MPS, for tasks that were started before the config changed"),
        "stop them, or drain the node",
    )


def _unsettled_sentence(uuid: str, one: Unsettled) -> Problem:
    return Problem(
        (
            f"{uuid}: {one.setting} was set to {one.wanted} and reads back as {one.read}, so"
            " this limit may not hold"
        ),
        "check the version of the driver's MPS tools",
    )


def _sentence(uuid: str, error: Exception) -> Problem:
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else NOTHING
        return Problem(
            f"{uuid}: its MPS daemon cannot be kept ({error.strerror}{where})", "fix that"
        )
    return problem_of(error.problem if isinstance(error, HardwareError) else str(error))
