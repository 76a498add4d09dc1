# SPDX-License-Identifier: MPL-2.0
"""The MPS server: the process that clients hold on to, and that outlives a killed daemon."""

import os
import select
import socket
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from .log import Log
from .state import State

COMM = "nvidia-cuda-mps-"


def socket_path(pipe: Path, pid: int) -> Path:
    """Where a server listens for its clients."""
    return pipe / f"server-{pid}"


def name_process() -> None:
    """Call the process in /proc as the kernel would call the real one."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(COMM, encoding="ascii")


def serve(state: State, pipe: Path, daemon: socket.socket, log: Log) -> NoReturn:
    """Be a server in a process that was just forked; `daemon` is the link to the one that did."""
    try:
        _close_all_but(daemon.fileno())
        name_process()
        state.record_process("server", str(pipe))
        if state.rule("fail_server", pipe=str(pipe)):
            log.write("Failed to create the server's context")
            os._exit(1)
        _serve(state, pipe, daemon, log)
    finally:
        os._exit(1)


def _serve(state: State, pipe: Path, daemon: socket.socket, log: Log) -> NoReturn:
    path = socket_path(pipe, os.getpid())
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o666)
    listener.listen(128)
    log.write("Start")
    _await_readiness(state, pipe, daemon)
    daemon.sendall(b"R")
    clients: list[socket.socket] = []
    sources = [daemon, listener]
    # A daemon that was killed leaves its server to the clients that are on it.
    while daemon in sources or clients:
        for ready in select.select([*sources, *clients], [], [])[0]:
            if ready is listener:
                clients.append(listener.accept()[0])
            elif ready in clients:
                clients.remove(ready)
                ready.close()
            elif ready.recv(1):
                os._exit(0)
            else:
                sources = [listener]
    path.unlink(missing_ok=True)
    log.write("Server exited: the control daemon is gone and so is the last client")
    os._exit(0)


def _await_readiness(state: State, pipe: Path, daemon: socket.socket) -> None:
    """Wait as long as servers are told to, and end if the daemon does meanwhile."""
    while state.rule("initializing", pipe=str(pipe)):
        if select.select([daemon], [], [], 0.01)[0]:
            os._exit(0)


def _close_all_but(kept: int) -> None:
    """Among what is closed is the daemon's lock, which must not outlive the daemon."""
    last = os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") > 0 else 65536
    os.closerange(3, kept)
    os.closerange(kept + 1, min(last, 65536))
