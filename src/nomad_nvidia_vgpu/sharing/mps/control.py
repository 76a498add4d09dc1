# SPDX-License-Identifier: MPL-2.0
"""NVIDIA's `nvidia-cuda-mps-control`: one command at a time, under a timeout, for one daemon.

The tool exits with 0 whatever it thinks of a command, ignores values it does not like and does
not check device numbers: what was set counts only when it has been read back.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from nomad_nvidia_vgpu.errors import MpsError
from nomad_nvidia_vgpu.sharing.mps.layout import (
    CONTROL_LOG,
    LOG,
    LOG_ENV,
    PIPE,
    PIPE_ENV,
    PROGRAM,
    START_LOG,
)
from nomad_nvidia_vgpu.sharing.mps.limits import ORDINAL, Limits

ANSWER_S = 3.0
"""How long one command may take; the tool is known to hang."""
START_S = 5.0

_REAP_S = 1.0
_UMASK = 0o022
"""Whatever the agent's is: tasks of other users use what the daemon makes."""
_USUAL_PATH = "/usr/bin:/usr/local/bin:/bin"
_NO_DAEMON = "cannot find mps control daemon"
_UNKNOWN = ("unknown command", "unrecognized", "invalid command", "not recognized")
_MIB = {"": 2**-20, "K": 2**-10, "M": 1.0, "G": 2.0**10, "T": 2.0**20}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*%?")
_MAX_SHOWN = 120
_MOST_SAID = 1 << 16

_log = logging.getLogger(__name__)


class Server(NamedTuple):
    """One MPS server of a daemon."""

    pid: int
    status: str
    """ACTIVE, FAULT and others; "" when the tool cannot tell."""
    clients: tuple[int, ...] | None
    """The processes that use it, by pid; None: the tool does not tell."""

    @property
    def in_use(self) -> bool:
        """Whether it has clients, or may have."""
        return self.clients is None or bool(self.clients)


class Unsettled(NamedTuple):
    """A limit that is not what it should be."""

    setting: str
    wanted: str
    read: str
    """What the tool answers instead, quoted."""

    @property
    def of_memory(self) -> bool:
        """Whether it is the limit of the memory."""
        return "mem_limit" in self.setting


class MpsControl:
    """The tool, for the daemon that has one pipe directory."""

    def __init__(self, directory: Path, uuid: str, program: str) -> None:
        """`directory` is the GPU's own, with `pipe` and `log` in it."""
        self._directory = directory
        self._uuid = uuid
        self._program = program

    @property
    def pid_file(self) -> Path:
        """Where the daemon says who it is."""
        return self._directory / PIPE / f"{PROGRAM}.pid"

    def start(self, *, multi_user: bool) -> bool:
        """Starts the daemon, which answers from then on; MpsError with what the tool said.

        Returns whether it is a multi-user one: not every driver has those.
        """
        status, said = self._launch("-d", *(["-multiuser-server"] if multi_user else []))
        if status != 0 and multi_user:
            _log.debug("%s: no multi-user MPS: %s", self._uuid, _shown(said))
            multi_user = False
            status, said = self._launch("-d")
        if status != 0:
            raise MpsError(
                f"{self._uuid}: {PROGRAM} -d failed (exit status {status}, {_steady(said)})",
                f"see {self._directory / CONTROL_LOG}",
            )
        return multi_user

    def running(self) -> bool:
        """Whether a daemon answers; MpsError when one is there and does not."""
        status, said = self._command("get_server_list")
        return status == 0 and _NO_DAEMON not in said.lower()

    def servers(self) -> list[Server]:
        """The servers there are: none before the first client."""
        return [
            Server(pid, self._status(pid), self._pids(f"get_client_list {pid}"))
            for pid in self._server_pids()
        ]

    def _server_pids(self) -> tuple[int, ...]:
        pids = self._pids("get_server_list")
        if pids is None:
            raise MpsError(
                f"{self._uuid}: its MPS daemon gives no list of its servers",
                f"see control.log in {self._directory / LOG}",
            )
        return pids

    def limits(self, server: int | None = None) -> tuple[str, str]:
        """The limits of memory and SMs for new clients, in the tool's words.

        `server`: of one running server by pid; None: of the servers to come.
        """
        of, to = ("", "default_") if server is None else (f"{server} ", "")
        memory = self._ask(f"get_{to}device_pinned_mem_limit {of}{ORDINAL}")
        return memory.strip(), self._ask(f"get_{to}active_thread_percentage {of}".strip()).strip()

    def start_server(self) -> None:
        """Starts a server before its first client would; it may take a moment to be listed."""
        self._ask("start_server -uid 0")

    def quit(self) -> None:
        """Tells the daemon to end, and its servers with it."""
        self._ask("quit")

    def settle(
        self, limits: Limits, server: int | None = None, *, change: bool, again: bool = False
    ) -> list[Unsettled]:
        """Reads the limits of new clients, and if `change` sets those that differ.

        `again`: also those that only seem not to, since they read back rounded.
        `server`: those of one running server by pid; None: of the servers to come. Returns what
        is not as wanted in the end.
        """
        of, to = ("", "default_") if server is None else (f"{server} ", "")
        percentage = limits.thread_percentage or 100
        wanted = [
            (f"{to}active_thread_percentage {of}".strip(), str(percentage), _same_number),
        ]
        if limits.memory_mib is not None:
            size = f"{limits.memory_mib}M"
            wanted.append((f"{to}device_pinned_mem_limit {of}{ORDINAL}", size, _same_size))
        unsettled = []
        for setting, value, same in wanted:
            read = self._ask(f"get_{setting}")
            differs = not same(read, value) or (again and not same(read, value, rounded=False))
            if change and differs:
                self._ask(f"set_{setting} {value}")
                read = self._ask(f"get_{setting}")
            if not same(read, value):
                name = setting.split()[0]
                unsettled.append(Unsettled(name, value, _shown(read)))
        return unsettled

    def _status(self, pid: int) -> str:
        said = self._ask(f"get_server_status {pid}").strip().upper()
        return "" if any(words.upper() in said for words in _UNKNOWN) else said

    def _pids(self, command: str) -> tuple[int, ...] | None:
        """A list of pids, None when the answer is none, such as "Server 4711 not found"."""
        words = self._ask(command).split()
        return tuple(map(int, words)) if all(map(str.isdecimal, words)) else None

    def _ask(self, command: str) -> str:
        status, said = self._command(command)
        if status != 0 or _NO_DAEMON in said.lower():
            raise MpsError(
                (
                    f"{self._uuid}: its MPS daemon refuses {command.split(maxsplit=1)[0]!r} (exit status"
                    f" {status}, {_steady(said)})"
                ),
                f"see {self._directory / CONTROL_LOG}",
            )
        return said

    def _launch(self, *arguments: str) -> tuple[int, str]:
        """The exit status and all that was written; what the daemon keeps open has a name."""
        with (self._directory / START_LOG).open("w+b") as output:
            process = self._started(arguments, subprocess.DEVNULL, output)
            return self._wait(process, "-d", START_S), _written(output)

    def _command(self, command: str) -> tuple[int, str]:
        """The exit status and all that the tool wrote, for one command."""
        with _in_memory() as stdin, _in_memory() as output:
            _seal(output)
            stdin.write(f"{command}\n".encode())
            stdin.seek(0)
            process = self._started((), stdin, output)
            return self._wait(process, command, ANSWER_S), _written(output)

    def _started(
        self, arguments: Sequence[str], stdin: IO[bytes] | int, output: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """The tool, with files for its streams: one that it kept would never end as a pipe."""
        try:
            return subprocess.Popen(  # noqa: S603  our arguments, NVIDIA's program
                [self._program, *arguments],
                env=self._environment(),
                stdin=stdin,
                stdout=output,
                stderr=output,
                cwd="/",  # a directory that a daemon works in cannot be unmounted
                umask=_UMASK,
                start_new_session=True,  # Ctrl-C at the agent is not for it
            )
        except OSError as error:
            raise MpsError(f"{self._program} cannot be run ({error})", "fix it") from error

    def _wait(self, process: subprocess.Popen[bytes], what: str, timeout_s: float) -> int:
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_REAP_S)  # a process that hangs in the driver cannot be killed
            raise MpsError(
                (
                    f"{self._uuid}: its MPS daemon does not answer {what.split(maxsplit=1)[0]!r} within {timeout_s:g}"
                    " s"
                ),
                (
                    f"drain the node, then end the daemon ({self.pid_file}); a new one is started by"
                    " itself"
                ),
            ) from None

    def _environment(self) -> dict[str, str]:
        """What the daemon needs, and nothing else of the agent's environment.

        Its own words for where the driver's programs and libraries are, on systems that keep
        them in unusual places, are passed on.
        """
        kept = {
            name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ
        }
        return {
            **kept,
            PIPE_ENV: str(self._directory / PIPE),
            LOG_ENV: str(self._directory / LOG),
            "CUDA_VISIBLE_DEVICES": self._uuid,
        }


def located(path: str | None = None) -> str | None:
    """Where the tool is for a process with this PATH, by default this one."""
    return shutil.which(PROGRAM, path=path) or shutil.which(PROGRAM, path=_USUAL_PATH)


def find_program() -> str:
    """Where the tool is; MpsError when this node has none."""
    found = located()
    if found is None:
        raise MpsError(
            f"{PROGRAM} is not in PATH",
            (
                "install the MPS tools of the NVIDIA driver on this client, or set sharing to"
                ' "time-slicing"'
            ),
        )
    return found


def _in_memory() -> IO[bytes]:
    """A file that no full disk can prevent."""
    file = os.memfd_create("mps", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    return open(file, "w+b")  # noqa: PTH123  it has no path


def _seal(output: IO[bytes]) -> None:
    """Lets nobody write more than an answer into it.

    Root in a container with the pipe directory can answer in the daemon's place, for ever.
    """
    output.truncate(_MOST_SAID)
    fcntl.fcntl(output, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)


def _written(output: IO[bytes]) -> str:
    # It was written by way of the same open file, whose place is after the last word.
    length = min(os.lseek(output.fileno(), 0, os.SEEK_CUR), _MOST_SAID)
    return os.pread(output.fileno(), length, 0).decode("utf-8", "replace")


def _same_number(read: str, wanted: str, *, rounded: bool = True) -> bool:  # noqa: ARG001
    """Whether a percentage reads back as set; `25.0` is 25."""
    match = _NUMBER.fullmatch(read.strip())
    return match is not None and float(match[1]) == float(wanted)


def _same_size(read: str, wanted: str, *, rounded: bool = True) -> bool:
    """Whether a size reads back as set, whatever the unit; a bare number is bytes.

    `rounded`: some tools answer in whole GiB, rounded down (`3G` for 3840M, in NVIDIA's own guides).
    """
    match, wanted_mib = _SIZE.fullmatch(read.strip()), float(wanted.removesuffix("M"))
    if match is None:
        return False
    number, unit = match[1], match[2].upper()
    if unit == "G" and number.isdigit():
        return rounded and int(number) == wanted_mib // 1024 > 0
    return float(number) * _MIB[unit] == wanted_mib


def _steady(said: str) -> str:
    """The words without their numbers: a pid or a time would make news of each pass."""
    return re.sub(r"\d+", "#", _shown(said))


def _shown(said: str) -> str:
    line = " ".join(said.split())
    return repr(line[:_MAX_SHOWN]) if line else "no word"
