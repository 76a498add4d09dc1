# SPDX-License-Identifier: MPL-2.0
"""NVIDIA's `nvidia-cuda-mps-control`: the commands of one pass in one call, for one daemon.

The daemon speaks to one caller at a time. Another is turned away, with or without a word, with
status 0 or 1: that is no answer, and is asked again. The tool ignores values that it does not like:
what was set counts only when it has been read back.
What each version of the tool does: docs/internals/mps.md#the-control-tool
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from nomad_nvidia_vgpu.errors import MpsError
from nomad_nvidia_vgpu.host.locks import lock_holder
from nomad_nvidia_vgpu.sharing.mps.layout import (
    CONTROL_LOCK,
    CONTROL_LOG,
    LOG,
    LOG_ENV,
    LONGEST_PIPE_BYTES,
    PIPE,
    PIPE_ENV,
    PROGRAM,
    SERVER_PROGRAM,
    START_LOG,
    TURN,
)
from nomad_nvidia_vgpu.sharing.mps.reading import Reading, Server

ANSWER_S = 3.0
"""How long the commands of one pass may take; the tool is known to hang."""
START_S = 5.0
QUIT_S = 1
"""How long servers have to end by themselves, in whole seconds as `quit -t` takes it."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
_UMASK = 0o022
"""Whatever the agent's is: tasks of other users use what the daemon makes."""
_USUAL_PATH = "/usr/bin:/usr/local/bin:/bin"
_SERVER_PATH = "/usr/bin:/usr/sbin"
"""Where drivers put the server: Debian has it in the second."""
_FENCE = "get_default_active_thread_percentage"
"""A command whose answer is never empty, and looks like no other: it tells answers apart."""
_PERCENTAGE = re.compile(r"\d+\.\d+")
_NO_ANSWER = "Cannot "
_RUNNING = "already running"
_NOT_RUN = (126, 127)
"""What `timeout` ends with where there is nothing to run."""
_MAX_SHOWN = 120
_MOST_SAID = 1 << 16

_log = logging.getLogger(__name__)


class BusyError(MpsError):
    """A daemon lives and turns every caller away, because somebody else speaks to it."""


class MpsControl:
    """The tool, for the daemon that has one pipe directory."""

    def __init__(self, directory: Path, uuid: str, program: str) -> None:
        """`directory` is the GPU's own, with `pipe` and `log` in it."""
        self._directory = directory
        self._uuid = uuid
        self._program = program

    def start(self, *, multi_user: bool) -> bool:
        """Starts the daemon, which answers from then on; MpsError with what the tool said.

        Returns whether it is a multi-user one: drivers up to 550 do not have those.
        """
        pipe = self._directory / PIPE
        if len(os.fsencode(pipe)) > LONGEST_PIPE_BYTES:
            raise MpsError(
                f"{self._uuid}: the path {pipe} is longer than the {LONGEST_PIPE_BYTES} bytes that an"
                " MPS daemon can use",
                "set a shorter mps.root",
            )
        status, said = self._launch("-d", *(["-multiuser-server"] if multi_user else []))
        # An old tool does not know the option, looks for a daemon to talk to, and may end with 0.
        if multi_user and _RUNNING not in said and not self._held():
            _log.debug("%s: no multi-user MPS: %s", self._uuid, _shown(said))
            multi_user = False
            status, said = self._launch("-d")
        if status != 0:
            raise MpsError(
                f"{self._uuid}: {PROGRAM} -d failed (exit status {status}, {_steady(said)})",
                f"see {self._directory / CONTROL_LOG}",
            )
        return multi_user

    def read(self) -> Reading:
        """What the daemon says of itself and its servers; MpsError."""
        pids, memory, priority, percentage = self.ask(
            "get_server_list",
            "get_default_device_pinned_mem_limit 0",
            "get_default_client_priority",
            _FENCE,
        )
        if not all(word.isdecimal() for word in pids.split()):
            raise MpsError(
                f"{self._uuid}: its MPS daemon gives no list of its servers ({_steady(pids)})",
                f"see {self._directory / CONTROL_LOG}",
            )
        servers = (self._server(int(pid)) for pid in pids.split())
        return Reading(
            tuple(server for server in servers if server is not None),
            memory,
            percentage,
            priority if priority.isdecimal() else None,
        )

    def _server(self, pid: int) -> Server | None:
        status, clients, memory, percentage = self.ask(
            f"get_server_status {pid}",
            f"get_client_list {pid}",
            f"get_device_pinned_mem_limit {pid} 0",
            f"get_active_thread_percentage {pid}",
        )
        gone = f"Server {pid} not found"
        if gone in (status, clients, percentage):
            return None
        words = clients.split()
        known = all(map(str.isdecimal, words))
        return Server(
            pid,
            status if re.fullmatch(r"[A-Z_]+", status) else "",
            tuple(map(int, words)) if known else None,
            memory,
            percentage,
        )

    def ask(self, *commands: str) -> list[str]:
        """The answers to commands that change nothing, in order, all from one call; MpsError.

        Only the last may be one that is answered by a percentage. It is asked twice if it is the
        fence itself.
        """
        text = "".join(f"{command}\n{_FENCE}\n" for command in commands)
        return self._answered(text, lambda lines: _apart(lines, len(commands)))

    def tell(self, *commands: str) -> None:
        """Has the daemon obey commands; what came of them is to be read afterwards. MpsError."""
        text = "".join(f"{command}\n" for command in (*commands, _FENCE))
        self._answered(text, lambda lines: lines[-1:] and _numbers(lines[-1:]))

    def quit(self) -> None:
        """Tells the daemon to end, and its servers with it; the caller sees whether it does."""
        with contextlib.suppress(MpsError), self._turn():
            self._run(f"quit -t {QUIT_S}\n", ANSWER_S + QUIT_S)

    def _answered(
        self, text: str, understood: Callable[[list[str]], list[str] | None]
    ) -> list[str]:
        deadline, pause_s = time.monotonic() + ANSWER_S, _FIRST_PAUSE_S
        with self._turn():
            while True:
                said = self._run(text, ANSWER_S)
                answers = understood(said.splitlines())
                if answers:
                    return answers
                if not self._held():
                    raise MpsError(f"{self._uuid}: its MPS daemon has ended", "wait a moment")
                if time.monotonic() + pause_s > deadline:
                    raise BusyError(
                        f"{self._uuid}: its MPS daemon answers somebody else",
                        f"end the {PROGRAM} whose prompt is open",
                    )
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _held(self) -> bool:
        """Whether a daemon lives, answering or not."""
        return lock_holder(self._directory / CONTROL_LOCK) is not None

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Keeps other processes of ours from the daemon; a user who may not take part is let by."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            turn = os.open(self._directory / TURN, flags, 0o600)
        except OSError:
            yield
            return
        try:
            deadline = time.monotonic() + 2 * ANSWER_S
            while not _taken(turn):
                if time.monotonic() > deadline:
                    raise BusyError(
                        f"{self._uuid}: another process of this program speaks to its MPS daemon",
                        "wait until it has ended",
                    )
                time.sleep(_FIRST_PAUSE_S)
            yield
        finally:
            os.close(turn)

    def _launch(self, *arguments: str) -> tuple[int, str]:
        """The exit status and all that was written; what the daemon keeps open has a name."""
        with (self._directory / START_LOG).open("w+b") as output:
            process = self._started(arguments, subprocess.DEVNULL, output, START_S)
            return self._wait(process, START_S), _written(output)

    def _run(self, text: str, timeout_s: float) -> str:
        """All that the tool wrote for these commands; nothing where they were not answered."""
        with _in_memory() as stdin, _in_memory() as output:
            _seal(output)
            stdin.write(text.encode())
            stdin.seek(0)
            process = self._started((), stdin, output, timeout_s)
            status, said = self._wait(process, timeout_s), _written(output)
        if status in _NOT_RUN:
            raise MpsError(f"{self._program} cannot be run ({_steady(said)})", "fix that")
        return said if status == 0 and not said.startswith(_NO_ANSWER) else ""

    def _started(
        self,
        arguments: Sequence[str],
        stdin: IO[bytes] | int,
        output: IO[bytes],
        timeout_s: float,
    ) -> subprocess.Popen[bytes]:
        """The tool, with files for its streams: one that it kept would never end as a pipe."""
        # A tool that hangs must end too when this process was killed meanwhile.
        keeper = shutil.which("timeout", path=_USUAL_PATH)
        kept = [keeper, "-s", "KILL", f"{timeout_s + 1:g}"] if keeper else []
        try:
            return subprocess.Popen(  # noqa: S603  our arguments, NVIDIA's program
                [*kept, self._program, *arguments],
                env=self._environment(),
                stdin=stdin,
                stdout=output,
                stderr=output,
                cwd="/",  # a directory that a daemon works in cannot be unmounted
                umask=_UMASK,
                start_new_session=True,  # Ctrl-C at the agent is not for it
            )
        except OSError as error:
            raise MpsError(f"{self._program} cannot be run ({error})", "fix that") from error

    def _wait(self, process: subprocess.Popen[bytes], timeout_s: float) -> int:
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LONGEST_PAUSE_S)  # what hangs in the driver cannot be killed
            holder = lock_holder(self._directory / CONTROL_LOCK)
            named = f" (pid {holder})" if holder else ""
            raise MpsError(
                f"{self._uuid}: its MPS daemon does not answer",
                f"drain the node, then end the daemon{named}; a new one is started by itself",
            ) from None

    def _environment(self) -> dict[str, str]:
        """What the daemon needs, and nothing else of the agent's environment.

        Its own words for where the driver's libraries are, on systems that keep them in unusual
        places, are passed on.
        """
        kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        return {
            **kept,
            "PATH": daemon_path(self._program, os.environ.get("PATH")),
            PIPE_ENV: str(self._directory / PIPE),
            LOG_ENV: str(self._directory / LOG),
            "CUDA_VISIBLE_DEVICES": self._uuid,
        }


def located(path: str | None = None) -> str | None:
    """Where the tool is for a process with this PATH, by default this one."""
    return shutil.which(PROGRAM, path=path) or shutil.which(PROGRAM, path=_USUAL_PATH)


def daemon_path(program: str, path: str | None) -> str:
    """The PATH in which a daemon looks for its server: beside the tool first, so that they match."""
    beside = os.path.dirname(os.path.realpath(program))  # noqa: PTH120  a string for a string
    words = [os.path.dirname(program), beside, *(path or "").split(":"), *_SERVER_PATH.split(":")]  # noqa: PTH120
    return ":".join(dict.fromkeys(word for word in words if word.startswith("/")))


def located_server(program: str, path: str | None) -> str | None:
    """Where the daemon of this tool finds its server, for an agent with this PATH; None: nowhere."""
    return shutil.which(SERVER_PROGRAM, path=daemon_path(program, path))


def find_program(path: str | None = None) -> str:
    """Where the tool is for a process with this PATH; MpsError when this node has none."""
    found = located(path)
    if found is None:
        raise MpsError(
            f"{PROGRAM} is not in PATH",
            "install the MPS tools of the NVIDIA driver on this client, or set sharing to"
            ' "time-slicing"',
        )
    return found


def _apart(lines: list[str], commands: int) -> list[str] | None:
    """The answer to each command, by the fence after each; None: not all have one."""
    if not lines or not _numbers(lines[-1:]):
        return None
    fence, answers, begin = lines[-1], [], 0
    for _ in range(commands - 1):
        if fence not in lines[begin:-1]:
            return None
        end = lines.index(fence, begin)
        answers.append("\n".join(lines[begin:end]).strip())
        begin = end + 1
    return [*answers, "\n".join(lines[begin:-1]).strip()]


def _numbers(lines: list[str]) -> list[str] | None:
    return lines if all(_PERCENTAGE.fullmatch(line) for line in lines) else None


def _taken(turn: int) -> bool:
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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


def _steady(said: str) -> str:
    """The words without their numbers: a pid or a time would make news of each pass."""
    return re.sub(r"\d+", "#", _shown(said))


def _shown(said: str) -> str:
    line = " ".join(said.split())
    return repr(line[:_MAX_SHOWN]) if line else "no word"
