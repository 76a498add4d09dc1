# SPDX-License-Identifier: MPL-2.0
"""`nvidia-cuda-mps-control`: the tool that reads commands, and the start of the daemon."""

import errno
import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from .log import Log
from .state import (
    CONTROL,
    LOCK,
    LOG,
    PRETENDED_USER,
    Directories,
    State,
    born,
    directories,
    lock_holder,
)

_NO_DAEMON = "Cannot find MPS control daemon process"
_NOT_SENT = "Cannot send command to MPS control daemon process"
_RUNNING = "An instance of this daemon is already running"
_USAGE = """CUDA MPS Control for Linux/Unix.
Copyright (C) NVIDIA Corporation.

  A stand-in of it: see tests/mps_control/README.md.
"""

_MULTI_USER = "-multiuser-server"
_LONGEST_PIPE_BYTES = 87
_LONGEST_LINE_BYTES, _LONGEST_ANSWER = 4095, 4096


def main(state: State, arguments: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit code."""
    # It ends at once, whatever is on its way.
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.SIG_DFL)
    version = state.version()
    if "-h" in arguments or "--help" in arguments:
        _say(_USAGE)
        return 0
    where = directories(state)
    starts = "-d" in arguments or "-f" in arguments
    if starts:
        state.record("starts", {**_circumstances(), "arguments": arguments})
        if rule := state.rule("fail_start", pipe=str(where.pipe)):
            sys.stderr.write(rule.text + "\n")
            return rule.code
    known = ("-d", "-f", *([_MULTI_USER] if version.multi_user else []))
    strange = any(word not in known for word in arguments)
    if not starts or (strange and not version.strict_options):
        return _converse(state, where.pipe)
    if strange or (_MULTI_USER in arguments and _user() != 0):
        _say(_USAGE if strange else f"{_USAGE}\nOnly root user may enable -multiuser-server!")
        return 1
    return _start(state, where, arguments)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _user() -> int:
    return int(os.environ.get(PRETENDED_USER) or os.geteuid())


def _circumstances() -> dict[str, object]:
    # Not os.environ: the interpreter puts a variable of its own into that.
    lines = Path("/proc/self/environ").read_text(errors="surrogateescape").split("\0")
    given = {line.partition("=")[0]: line.partition("=")[2] for line in lines if line}
    return {
        "pid": os.getpid(),
        "names": sorted(given),
        "cuda": {name: value for name, value in given.items() if name.startswith("CUDA_")},
        "streams": [_stream(fd) for fd in range(3)],
        "leads_session": os.getsid(0) in _leaders(),
    }


def _leaders() -> set[int]:
    """Its own pid, and that of the `timeout` that it may have been started by."""
    parent = os.getppid()
    by_timeout = Path(f"/proc/{parent}/comm").read_text() == "timeout\n"
    return {os.getpid(), *([parent] if by_timeout else [])}


def _stream(fd: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return "closed"


# ---- commands ----


def _converse(state: State, pipe: Path) -> int:
    link = _opened(pipe)
    if isinstance(link, int):
        return link
    for raw in _lines():
        line = raw.decode(errors="replace").strip()
        state.record("commands", {**_circumstances(), "line": line, "pipe": str(pipe)})
        answer, code = _switched(state, line.partition(" ")[0], str(pipe), link)
        if answer is None:
            if link.fileno() < 0:  # it hung, and was healed
                again = _opened(pipe)
                if isinstance(again, int):
                    return again
                link = again
            answer, code = _ask(link, line)
        if answer:
            _say(answer[:_LONGEST_ANSWER])
        if code or (line.partition(" ")[0] == "quit" and not answer):
            return code
    return 0


def _opened(pipe: Path) -> socket.socket | int:
    """The connection to the daemon, or the exit code when there is none to be had."""
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect(str(pipe / CONTROL))
        link.sendall(json.dumps({"open": _user()}).encode() + b"\n")
        greeted = link.recv(4096)
    except (FileNotFoundError, NotADirectoryError, PermissionError, ConnectionRefusedError):
        sys.stderr.write(_NO_DAEMON + "\n")
        return 1
    except OSError:
        greeted = b""
    if greeted:
        return link
    # Another prompt is open. What the real tool makes of that depends on who is faster.
    code, said = ((0, ""), (1, _NOT_SENT), (1, ""), (0, _NOT_SENT))[os.getpid() % 4]
    sys.stderr.write(f"{said}\n" if said else "")
    return code


def _lines() -> Iterator[bytes]:
    for line in sys.stdin.buffer:
        for begin in range(0, len(line), _LONGEST_LINE_BYTES):
            yield line[begin : begin + _LONGEST_LINE_BYTES]


def _switched(state: State, command: str, pipe: str, link: socket.socket) -> tuple[str | None, int]:
    """The answer and exit code that a test has chosen, (None, 0) for the daemon's own."""
    if state.rule("hang", command, pipe):
        link.close()  # others are not kept from the daemon by one that hangs
        state.wait_out("hang", command, pipe)
    if rule := state.rule("refuse", command, pipe):
        return rule.text, rule.code
    if rule := state.rule("lie", command, pipe):
        return rule.text, 0
    return None, 0


def _ask(link: socket.socket, line: str) -> tuple[str, int]:
    said = b""
    try:
        link.sendall(json.dumps({"ui": line}).encode() + b"\n")
        while not said.endswith(b"\n"):
            more = link.recv(65536)
            if not more:
                break
            said += more
    except OSError:
        said = b""
    if not said:
        if line.partition(" ")[0] == "quit":
            return "", 0
        sys.stderr.write(_NOT_SENT + "\n")
        return "", 1
    reply = json.loads(said)
    return reply["text"], reply.get("code", 0)


# ---- the daemon's start ----


def _start(state: State, where: Directories, arguments: Sequence[str]) -> int:
    pipe = str(where.pipe)
    state.wait_out("hang_start", pipe=pipe)
    umask = os.umask(0)
    if (code := _make_room(where)) is not None:
        return code
    os.umask(umask)
    if "-f" in arguments:
        return _serve(state, where, arguments, None)
    ready_fd, told_fd = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.close(ready_fd)
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        if state.rule("keep_streams", pipe=pipe) is None:
            _detach()
        os._exit(_serve(state, where, arguments, told_fd))
    os.close(told_fd)
    os.waitpid(middle, 0)
    with os.fdopen(ready_fd) as ready:
        pid = ready.read()
    if not pid:
        return 1
    if state.rule("die_after_start", pipe=pipe):
        while born(int(pid)) is not None:
            pass
    state.wait_out("hang_start_listening", pipe=pipe)
    return 0


def _make_room(where: Directories) -> int | None:
    """Make what a daemon needs; the exit code where it cannot, or another is there."""
    with suppress(OSError):
        where.pipe.mkdir(0o777, exist_ok=True)
    with suppress(OSError):
        where.log.mkdir(0o700, exist_ok=True)
    if not where.log.exists():
        _say(
            f"Warning: Failed writing log files to directory [{where.log}]. "
            "No logs will be available."
        )
    if not os.access(where.pipe, os.W_OK):
        _say(f"Cannot access CUDA_MPS_PIPE_DIRECTORY={where.pipe}")
        return 1
    with suppress(FileExistsError):
        os.mkfifo(where.pipe / LOG, 0o777)
    os.close(os.open(where.pipe / LOCK, os.O_RDWR | os.O_CREAT, 0o666))
    if lock_holder(where.pipe) is not None:
        Log(where.log / "server.log", "Other").write(f"Using log directory: {where.log}")
        _say(_RUNNING)
        return 1
    for name in ("control.log", "server.log"):
        with suppress(OSError):
            os.close(os.open(where.log / name, os.O_WRONLY | os.O_CREAT, 0o644))
    return 1 if len(os.fsencode(where.pipe)) > _LONGEST_PIPE_BYTES else None


def _lock(pipe: Path) -> bool:
    """Be the daemon of this directory, for as long as this process lives."""
    lock_fd = os.open(pipe / LOCK, os.O_RDWR)
    os.set_inheritable(lock_fd, True)
    try:
        fcntl.lockf(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _detach() -> None:
    null_fd = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null_fd, fd)
    os.close(null_fd)


def _serve(state: State, where: Directories, arguments: Sequence[str], told_fd: int | None) -> int:
    # Late, for the sake of the many runs that only ask.
    from .daemon import Daemon  # noqa: PLC0415

    pipe = str(where.pipe)
    umask = os.umask(0)
    if not _lock(where.pipe):
        return 1
    daemon = Daemon(state, where, multi_user=_MULTI_USER in arguments, foreground="-f" in arguments)
    state.record_process("daemon", pipe)
    try:
        daemon.listen()
    except OSError:
        return 1
    os.umask(umask)
    if told_fd is not None:
        os.write(told_fd, str(os.getpid()).encode())
        os.close(told_fd)
    if state.rule("die_after_start", pipe=pipe):
        return 1
    return daemon.run()
