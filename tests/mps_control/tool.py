# SPDX-License-Identifier: MPL-2.0
"""`nvidia-cuda-mps-control`: the tool that reads commands, and the start of the daemon."""

import fcntl
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .state import CONTROL, LOCK, Directories, State, born, directories

if TYPE_CHECKING:
    from .daemon import Daemon

_NO_DAEMON = "Cannot find MPS control daemon process"
_RUNNING = "An instance of this daemon is already running"
_USAGE = "Usage: nvidia-cuda-mps-control [-d | -f] [-S] [-M] [-v]"

_MULTI_USER = ("-M", "-multiuser-server", "--multiuser-server")
_FLAGS = ("-d", "-f", "-S", "-static-partitioning", "--static-partitioning", *_MULTI_USER)


def main(state: State, arguments: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit code."""
    if "-v" in arguments:
        _say("CUDA MPS Control binary version: 13010")
        return 0
    unknown = [
        word for word in arguments if word not in _FLAGS or state.rule("unknown", command=word)
    ]
    where = directories(state)
    if "-d" in arguments or "-f" in arguments:
        state.record("starts", {**_circumstances(), "arguments": arguments})
        if rule := state.rule("fail_start", pipe=str(where.pipe)):
            sys.stderr.write(rule.text + "\n")
            return rule.code
    if unknown:
        sys.stderr.write(f"Unrecognized option: {unknown[0]}\n{_USAGE}\n")
        return 1
    if "-d" in arguments or "-f" in arguments:
        return _start(state, where, arguments)
    return _converse(state, where.pipe)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _circumstances() -> dict[str, object]:
    # Not os.environ: the interpreter puts a variable of its own into that.
    lines = Path("/proc/self/environ").read_text(errors="surrogateescape").split("\0")
    given = {line.partition("=")[0]: line.partition("=")[2] for line in lines if line}
    return {
        "pid": os.getpid(),
        "names": sorted(given),
        "cuda": {name: value for name, value in given.items() if name.startswith("CUDA_")},
        "streams": [_stream(fd) for fd in range(3)],
        "leads_session": os.getsid(0) == os.getpid(),
    }


def _stream(fd: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return "closed"


# ---- commands ----


def _converse(state: State, pipe: Path) -> int:
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(str(pipe / CONTROL))
        except OSError:
            _say(_NO_DAEMON)
            return 1
        with link.makefile("r", encoding="utf-8") as replies:
            for line in map(str.strip, sys.stdin):
                if not line:
                    continue
                state.record("commands", {**_circumstances(), "line": line, "pipe": str(pipe)})
                answer, code = _switched(state, line.split()[0], str(pipe))
                if answer is None:
                    answer = _ask(link, line, replies.readline)
                    code = 1 if answer is None else 0
                    if code:
                        _say("MPS control daemon went away")
                if answer:
                    _say(answer)
                if code or line.split()[0] == "quit":
                    return code
    return 0


def _switched(state: State, command: str, pipe: str) -> tuple[str | None, int]:
    """The answer and exit code that a test has chosen, (None, 0) for the daemon's own."""
    state.wait_out("hang", command, pipe)
    if rule := state.rule("refuse", command, pipe):
        return rule.text, rule.code
    if state.rule("unknown", command, pipe):
        return f"Unknown command: {command}", 0
    if rule := state.rule("lie", command, pipe):
        return rule.text, 0
    return None, 0


def _ask(link: socket.socket, line: str, read: Callable[[], str]) -> str | None:
    try:
        link.sendall(json.dumps({"ui": line}).encode() + b"\n")
        reply = read()
    except OSError:
        reply = ""
    if not reply:
        # One who asks it to quit has what was asked for.
        return "" if line.split(maxsplit=1)[0] == "quit" else None
    text: str = json.loads(reply)["text"]
    return text


# ---- the daemon's start ----


def _start(state: State, where: Directories, arguments: Sequence[str]) -> int:
    pipe = str(where.pipe)
    state.wait_out("hang_start", pipe=pipe)
    for directory in where:
        try:
            directory.mkdir(exist_ok=True)
        except OSError as error:
            _say(f"Failed to create {directory}: {error.strerror}")
            return 1
    lock_fd = os.open(where.pipe / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        _say(_RUNNING)
        return 1
    # Late, for the sake of the many runs that only ask.
    from .daemon import Daemon  # noqa: PLC0415

    daemon = Daemon(
        state, where.pipe, where.log, multi_user=any(word in arguments for word in _MULTI_USER)
    )
    if "-f" in arguments:
        return _serve(state, daemon, pipe, None)
    ready_fd, told_fd = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.close(ready_fd)
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        _detach(keep_streams=state.rule("keep_streams", pipe=pipe) is not None)
        os._exit(_serve(state, daemon, pipe, told_fd))
    os.close(told_fd)
    os.close(lock_fd)
    os.waitpid(middle, 0)
    with os.fdopen(ready_fd) as ready:
        pid = ready.read()
    if not pid:
        # Its only words, also where the path is too long for a socket.
        _say(_NO_DAEMON)
        return 1
    if state.rule("die_after_start", pipe=pipe):
        while born(int(pid)) is not None:
            pass
    state.wait_out("hang_start_listening", pipe=pipe)
    return 0


def _detach(*, keep_streams: bool) -> None:
    os.chdir("/")
    if keep_streams:
        return
    null_fd = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null_fd, fd)
    os.close(null_fd)


def _serve(state: State, daemon: "Daemon", pipe: str, told_fd: int | None) -> int:
    state.record_process("daemon", pipe)
    try:
        daemon.listen()
    except OSError:
        return 1
    if told_fd is not None:
        os.write(told_fd, str(os.getpid()).encode())
        os.close(told_fd)
    if state.rule("die_after_start", pipe=pipe):
        return 1
    return daemon.run()
