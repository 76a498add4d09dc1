# SPDX-License-Identifier: MPL-2.0
"""The MPS server: the process that clients hold on to, and that outlives a killed daemon."""

import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from .log import Log
from .state import CONTROL, State, directories

COMM = "nvidia-cuda-mps"

_NO_DEVICE = "no CUDA-capable device is detected"


def socket_path(pipe: Path, pid: int) -> Path:
    """Where a server listens for its clients."""
    return pipe / f"server-{pid}"


def name_process() -> None:
    """Call the process in /proc as the kernel would call the real one."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(COMM, encoding="ascii")


def main(state: State) -> NoReturn:
    """Be a server: tell the daemon when ready, then serve whoever comes."""
    where = directories(state)
    log = Log(where.log / "server.log", "Other")
    log.write("Startup")
    log.write(f"Connecting to control daemon on socket: {where.pipe / CONTROL}")
    daemon = socket.socket(socket.AF_UNIX)
    daemon.connect(str(where.pipe / CONTROL))
    log.write("Initializing server process")
    if state.rule("fail_server", pipe=str(where.pipe)):
        log.write(f"Driver initialization failed with: {_NO_DEVICE}")
        log.write(f"Failed to start : {_NO_DEVICE}")
        sys.exit(1)
    path = socket_path(where.pipe, os.getpid())
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o666)
    listener.listen(128)
    # A daemon that was killed leaves its server to the clients that are on it.
    sources = [daemon, listener]
    while state.rule("initializing", pipe=str(where.pipe)):
        if select.select([daemon], [], [], 0.01)[0]:
            signal.pause()
    with suppress(OSError):
        daemon.sendall(json.dumps({"server": os.getpid()}).encode() + b"\n")
    clients: list[socket.socket] = []
    while daemon in sources or clients:
        for ready in select.select([*sources, *clients], [], [])[0]:
            if ready is listener:
                clients.append(listener.accept()[0])
            elif ready in clients:
                clients.remove(ready)
                ready.close()
            else:
                sources = [listener]
    path.unlink(missing_ok=True)
    sys.exit(0)
