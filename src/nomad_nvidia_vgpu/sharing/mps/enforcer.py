# SPDX-License-Identifier: MPL-2.0
"""Keeps one MPS control daemon per GPU running with the limits of the config; an `Enforcer`.

One process of a node does so at a time, the one that holds the lock under `mps.root`. Another
(the plugin of an agent that was killed a moment ago, `nvidia-vgpu launch` beside an agent) only
looks, and says what it sees.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from nomad_nvidia_vgpu.config.blocks import MpsConfig
from nomad_nvidia_vgpu.errors import NOTHING, HardwareError, MpsError, Problem, problem_of, together
from nomad_nvidia_vgpu.gpu.model import EXCLUSIVE_PROCESS, ComputeModes, Gpu
from nomad_nvidia_vgpu.sharing.enforcement import Enforcement
from nomad_nvidia_vgpu.sharing.mps.compute_mode import ComputeModeJournal
from nomad_nvidia_vgpu.sharing.mps.control import BusyError, find_program
from nomad_nvidia_vgpu.sharing.mps.daemon import MpsDaemon, Record, known_uuids
from nomad_nvidia_vgpu.sharing.mps.layout import (
    CONTROL_LOG,
    JOURNAL,
    LOCK,
    LOG,
    SERVER_LOG,
    gpu_directory,
)
from nomad_nvidia_vgpu.sharing.mps.limits import Limits, server_limits
from nomad_nvidia_vgpu.sharing.mps.logs import bound_logs
from nomad_nvidia_vgpu.sharing.mps.reading import FAULT, Reading, Unsettled
from nomad_nvidia_vgpu.sharing.mps.root import check_root, prepare_root, unreachable
from nomad_nvidia_vgpu.sharing.mps.tries import Tries


class _Kept(NamedTuple):
    """What a GPU was brought to by the last pass that could see."""

    daemon: int | None
    """Its pid."""
    enforcement: Enforcement


class Target(NamedTuple):
    """A GPU and what is to be in force there."""

    gpu: Gpu
    vgpus: int
    limits: Limits


class MpsEnforcer:
    """The MPS daemons of this node."""

    def __init__(
        self,
        config: MpsConfig,
        modes: ComputeModes,
        priority_of: Callable[[Gpu], int] = lambda _: 0,
    ) -> None:
        """Touches nothing yet. `priority_of` a GPU: 0 normal, 1 below normal."""
        self._config = config
        self._priority_of = priority_of
        self._root = Path(config.root)
        self._modes = modes
        self._journal = ComputeModeJournal(self._root / JOURNAL, modes)
        self._lock = threading.Lock()  # of `_owner`
        self._owner: int | None = None
        self._begun: set[str] = set()
        self._kept: dict[str, _Kept] = {}
        self._server_tries: dict[str, Tries] = {}
        """Of the GPUs that have no server which is ready."""
        self._daemon_tries: dict[str, Tries] = {}
        """Of the GPUs whose daemon has not lived until the next pass yet."""
        self._imposed: dict[str, tuple[Limits, tuple[int, ...]]] = {}
        """The limits that this process set on each GPU, and on which servers, by pid."""

    def keep(self, gpu: Gpu, vgpus: int, memory_percent: int = 100) -> Enforcement:
        """Starts, adopts or repairs the daemon of `gpu`, and reads its limits back."""
        try:
            program = find_program()
            prepare_root(self._root)
            directory = Path(gpu_directory(self._config, gpu.uuid))
            daemon = MpsDaemon(directory, gpu.uuid, program)
            owner = self._owns()
            if owner:
                bound_logs(directory / LOG)
            limits = server_limits(self._config, gpu, vgpus, memory_percent)
            limits = limits._replace(priority=self._priority_of(gpu))
            return self._seen(daemon, Target(gpu, vgpus, limits), owner=owner)
        except (HardwareError, OSError) as error:
            return Enforcement(problem=_sentence(gpu.uuid, error))

    def _seen(self, daemon: MpsDaemon, target: Target, *, owner: bool) -> Enforcement:
        """What is in force now, or what was when the daemon last let us look."""
        gpu = target.gpu
        try:
            reading = self._ensured(daemon, gpu) if owner else _running(daemon, gpu.uuid)
            seen = self._settle(daemon, target, reading, owner=owner)
        except BusyError as error:
            return self._as_before(daemon, gpu.uuid, error)
        self._kept[gpu.uuid] = _Kept(daemon.pid(), seen)
        return seen

    def _as_before(self, daemon: MpsDaemon, uuid: str, error: BusyError) -> Enforcement:
        """What a daemon last had in force that turns us away, for it serves clients all the same."""
        kept = self._kept.get(uuid)
        if kept is None or kept.daemon != daemon.pid():
            raise error
        return kept.enforcement._replace(weakness=error.problem)

    def holds(self, uuid: str) -> bool:
        """Whether a daemon's directory, or a changed compute mode, is left."""
        return Path(gpu_directory(self._config, uuid)).exists() or uuid in self._noted()

    def release(self, uuid: str) -> Problem:
        """Ends the daemon of a GPU that is not shared by MPS any more, once nobody uses it."""
        try:
            prepare_root(self._root)
            if not self._owns():
                raise MpsError(
                    f"{uuid}: another process of this plugin keeps its MPS daemon", "end that first"
                )
            directory = Path(gpu_directory(self._config, uuid))
            daemon = MpsDaemon(directory, uuid)
            if daemon.alive():
                daemon = MpsDaemon(directory, uuid, find_program())
                _end(daemon, uuid)
            elif any(daemon.orphaned_servers()):
                raise MpsError(_still_shared(uuid))
            daemon.remove()
            self._journal.restore(uuid)
        except (HardwareError, OSError) as error:
            return _sentence(uuid, error)
        self._begun.discard(uuid)
        self._kept.pop(uuid, None)
        self._server_tries.pop(uuid, None)
        self._daemon_tries.pop(uuid, None)
        return NOTHING

    def left_over(self) -> list[str]:
        """Every GPU that has a daemon's directory or a changed compute mode."""
        try:
            check_root(self._root)
        except (MpsError, OSError):
            return []  # not there, or not ours: nothing in it is to be believed
        return sorted({*known_uuids(self._root), *self._noted()})

    def _noted(self) -> list[str]:
        """The GPUs in the journal; none while it cannot be read, which `keep` tells."""
        try:
            return self._journal.uuids()
        except OSError:
            return []

    def _ensured(self, daemon: MpsDaemon, gpu: Gpu) -> Reading:
        """What the daemon says: started where there is none, again where that hurts nobody."""
        reading = None
        if daemon.alive():
            self._daemon_tries.pop(gpu.uuid, None)
            reading = daemon.read()
        if reading is not None and self._should_be_renewed(daemon, gpu, reading):
            daemon.stop()
            reading = None
        if reading is None or not reading.servers or gpu.uuid not in self._begun:
            self._set_compute_mode(gpu)  # with the server, a reset of the GPU took it away too
        if reading is None:
            self._start(daemon, gpu)
            self._server_tries.pop(gpu.uuid, None)  # this daemon was not told to start one yet
            self._imposed.pop(gpu.uuid, None)
            reading = daemon.read()
        self._begun.add(gpu.uuid)
        return reading

    def _start(self, daemon: MpsDaemon, gpu: Gpu) -> None:
        """Starts a daemon if that is due; MpsError with what went wrong last if it is not."""
        tries = self._daemon_tries.setdefault(gpu.uuid, Tries())
        if not tries.due():
            log = Path(gpu_directory(self._config, gpu.uuid)) / CONTROL_LOG
            raise MpsError(
                tries.failure
                or Problem(f"{gpu.uuid}: its MPS daemon ends soon after each start", f"see {log}")
            )
        asked, limited = self._config.multi_user, self._config.memory_limit
        try:
            daemon.start(Record(gpu.uuid, asked, asked, limited, gpu.driver_version or ""))
        except (MpsError, OSError) as error:
            tries.failure = _sentence(gpu.uuid, error)
            raise
        tries.failure = NOTHING

    def _should_be_renewed(self, daemon: MpsDaemon, gpu: Gpu, reading: Reading) -> bool:
        """Whether it is not what it should be, and nobody uses it."""
        if any(server.in_use for server in reading.servers):
            return False
        record = daemon.record()
        faulty = any(server.status == FAULT for server in reading.servers)
        refused = record is not None and record.multi_user_asked and not record.multi_user
        # Another driver may have learned it.
        learned = record is not None and gpu.driver_version not in (None, record.driver)
        return faulty or self._differs(record) or (refused and learned)

    def _differs(self, record: Record | None) -> bool:
        asked = (self._config.multi_user, self._config.memory_limit)
        return record is not None and (record.multi_user_asked, record.memory_limited) != asked

    def _settle(
        self, daemon: MpsDaemon, target: Target, reading: Reading, *, owner: bool
    ) -> Enforcement:
        """What is in force; sets the limits first if this process is the `owner`."""
        gpu, vgpus, limits = target
        if any(server.status == FAULT for server in reading.servers):
            raise MpsError(
                f"{gpu.uuid}: a task's fault has put its MPS server into FAULT",
                "stop the tasks on this GPU; the server is started again once they have ended",
            )
        record = daemon.record()
        multi_user = record is not None and record.multi_user
        # Before the server starts: it takes the defaults of that moment.
        unsettled = self._impose(daemon, gpu.uuid, limits, reading, owner=owner)
        if owner:
            before = reading
            reading = self._hold_gpu(daemon, gpu.uuid, before, multi_user=multi_user)
            if reading.ready != before.ready:
                unsettled = self._impose(daemon, gpu.uuid, limits, reading, owner=owner)
        if unsettled and not owner:
            raise MpsError(
                f"{gpu.uuid}: another process of this plugin keeps its MPS daemon, with other"
                " limits",
                "end that process",
            )
        exclusive, why_not = self._exclusive(gpu, vgpus)
        weaknesses = [
            *(_unsettled_sentence(gpu.uuid, limit) for limit in unsettled),
            self._record_sentence(gpu.uuid, record),
            why_not,
            unreachable(self._root, gpu.uuid),
        ]
        return Enforcement(
            holds_memory=limits.memory_mib is not None
            and exclusive
            and (bool(reading.ready) or not multi_user)
            and not any(limit.of_memory for limit in unsettled),
            weakness=together(weaknesses),
        )

    def _impose(
        self, daemon: MpsDaemon, uuid: str, limits: Limits, reading: Reading, *, owner: bool
    ) -> list[Unsettled]:
        """Sets what differs, and once what only seems not to; what is not as wanted in the end."""
        imposed = (limits, tuple(server.pid for server in reading.ready))
        again = owner and self._imposed.get(uuid) != imposed
        unsettled = daemon.settle(limits, reading, change=owner, again=again)
        self._imposed[uuid] = imposed
        return unsettled

    def _record_sentence(self, uuid: str, record: Record | None) -> Problem:
        if self._differs(record):
            return Problem(
                f"{uuid}: its MPS daemon was started with other mps options and is renewed once"
                " the tasks that use it have ended"
            )
        if record is not None and record.multi_user_asked and not record.multi_user:
            return Problem(
                f"{uuid}: this driver's MPS has no multi-user mode, so a task waits while tasks of"
                " another user use this GPU",
                "run them as one user, or set mps.multi_user = false",
            )
        return NOTHING

    def _hold_gpu(
        self, daemon: MpsDaemon, uuid: str, reading: Reading, *, multi_user: bool
    ) -> Reading:
        """Sees that a server holds the GPU and is ready; MpsError while none is.

        EXCLUSIVE_PROCESS lets one process in, whichever comes first: until there is a server, a
        task that does not find the daemon would have the whole GPU. Only a server of all users can
        be started before it is known whose task comes.
        """
        if reading.ready or not (multi_user or reading.servers):
            self._server_tries.pop(uuid, None)
            return reading
        tries = self._server_tries.setdefault(uuid, Tries())
        if multi_user and tries.due():
            reading = daemon.start_server()
        if reading.ready:
            del self._server_tries[uuid]
        elif tries.lasted() or (multi_user and not reading.servers):
            directory = Path(gpu_directory(self._config, uuid))
            raise MpsError(
                f"{uuid}: its MPS server does not start",
                f"see 'exited with status' in {directory / CONTROL_LOG}, {directory / SERVER_LOG},"
                " and who uses the GPU (nvidia-smi)",
            )
        # A server that a client's arrival has started, or that follows another, is no problem yet.
        elif multi_user and uuid not in self._kept:
            raise MpsError(f"{uuid}: its MPS server is starting", "wait a moment")
        return reading

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
            f"{gpu.uuid} is in compute mode {mode or 'unknown'}, so a process can run beside its"
            " MPS server, without limits",
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


def _running(daemon: MpsDaemon, uuid: str) -> Reading:
    """What a daemon says that another process keeps."""
    if not daemon.alive():
        raise MpsError(
            f"{uuid} has no MPS daemon, and another process of this plugin keeps the daemons of"
            " this node",
            "end that process",
        )
    return daemon.read()


def _end(daemon: MpsDaemon, uuid: str) -> None:
    """Ends a daemon that nobody uses any more."""
    if any(server.in_use for server in daemon.read().servers):
        raise MpsError(_still_shared(uuid))
    daemon.stop()


def _still_shared(uuid: str) -> Problem:
    return Problem(
        f"{uuid} is still shared by MPS, for tasks that were started before the config changed",
        "stop them, or drain the node",
    )


def _unsettled_sentence(uuid: str, limit: Unsettled) -> Problem:
    return Problem(
        f"{uuid}: {limit.setting} was set to {limit.wanted} and reads back as {limit.read}, so this limit"
        " may not hold",
        "check the version of the driver's MPS tools",
    )


def _sentence(uuid: str, error: Exception) -> Problem:
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        return Problem(
            f"{uuid}: its MPS daemon cannot be kept ({error.strerror}{where})", "fix that"
        )
    return problem_of(error.problem if isinstance(error, HardwareError) else str(error))
