# SPDX-License-Identifier: MPL-2.0
"""`fake-cuda-client [--hold] [--uid N] [--compute-mode MODE]`: a process that opens the GPU.

It prints one line of JSON, or nothing as long as it waits for a server:
`pid`, `uid`, `device`, `server` (its pid, null without MPS), `memory_mib` and `percentage` (null
where nothing limits it), `error` (a CUDA error, 0 for none). With `--hold` it stays until SIGTERM,
and prints a second line when its server is taken from it. It ends with 1 after an error.
"""

import json
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .limits import MIB, memory_limits, read_percentage
from .state import ALL, CANNOT_CONNECT, CONTROL, RPC_FAILURE, UNAVAILABLE, State, directories

_MODES = {"0": "DEFAULT", "2": "PROHIBITED", "3": "EXCLUSIVE_PROCESS"}


def main(state: State, arguments: Sequence[str]) -> int:
    """Open the GPU as the environment says; returns the exit code."""
    # To be ended is how it is meant to end.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    hold = "--hold" in arguments
    pipe = directories(state).pipe
    state.record_process("client", str(pipe))
    facts: dict[str, Any] = {
        "pid": os.getpid(),
        "uid": int(_value(arguments, "--uid") or os.getuid()),
        "device": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        "server": None,
        "memory_mib": None,
        "percentage": None,
        "error": 0,
    }
    with socket.socket(socket.AF_UNIX) as control:
        try:
            control.connect(str(pipe / CONTROL))
        except OSError:
            mode = _value(arguments, "--compute-mode") or _compute_mode(state, facts["device"])
            code = _print(facts, error=_error_without_mps(state, facts["device"], mode))
            return code if code or not hold else _stay([])
        return _meet(control, facts, hold=hold)


def _value(arguments: Sequence[str], option: str) -> str | None:
    return arguments[arguments.index(option) + 1] if option in arguments else None


def _print(facts: Mapping[str, Any], **changes: Any) -> int:
    fresh = {**facts, **changes}
    sys.stdout.write(json.dumps(fresh) + "\n")
    sys.stdout.flush()
    return 1 if fresh["error"] else 0


def _compute_mode(state: State, device: str) -> str:
    chosen: dict[str, str] = state.setting("compute_modes", {})
    mode = chosen.get(device) or chosen.get(ALL) or "DEFAULT"
    path = state.setting("compute_modes_path", None)
    if path is None or not Path(path).exists():
        return mode
    # The newest line is the mode in force.
    for line in Path(path).read_text(encoding="ascii").splitlines():
        uuid, _, number = line.partition(" ")
        if uuid == device:
            mode = _MODES.get(number, mode)
    return mode


def _error_without_mps(state: State, device: str, mode: str) -> int:
    if mode == "EXCLUSIVE_PROCESS" and state.setting("open_exclusive", False):
        held = any(device in entry["devices"] for entry in state.living("server"))
        return CANNOT_CONNECT if held else 0
    return {"DEFAULT": 0, "PROHIBITED": UNAVAILABLE}.get(mode, CANNOT_CONNECT)


def _meet(control: socket.socket, facts: dict[str, Any], *, hold: bool) -> int:
    """Register with the daemon, perhaps after a long wait, then hold on to the server."""
    client = {
        "pid": facts["pid"],
        "uid": facts["uid"],
        "name": Path(sys.argv[0]).name,
        "wanted": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    control.sendall(json.dumps({"client": client}).encode() + b"\n")
    with control.makefile("r", encoding="utf-8") as replies:
        line = replies.readline()
        reply: dict[str, Any] = json.loads(line) if line else {"error": CANNOT_CONNECT}
    if "error" in reply:
        return _print(facts, error=reply["error"])
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(reply["socket"])
        except OSError:
            return _print(facts, error=RPC_FAILURE)
        facts |= _share(reply)
        _print(facts)
        return _stay([server, control], facts) if hold else 0


def _share(reply: dict[str, Any]) -> dict[str, Any]:
    devices = reply["devices"]
    own_limit = os.environ.get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT")
    memory = memory_limits(own_limit, reply["limits"], devices).get(devices[0])
    own = read_percentage(os.environ.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", ""))
    return {
        "device": devices[0],
        "server": reply["server"],
        "memory_mib": None if memory is None else memory // MIB,
        "percentage": min(reply["percentage"], own or 100.0),
    }


def _stay(links: list[socket.socket], facts: Mapping[str, Any] | None = None) -> int:
    """Stay until the server goes or ends us; without MPS until SIGTERM."""
    while True:
        for link in select.select(links, [], [])[0]:
            said = b""
            # A server that dies before it has accepted resets the connection.
            with suppress(OSError):
                said = link.recv(4096)
            if said:
                return _print(facts or {}, error=json.loads(said)["error"])
            if link is links[0]:
                return _print(facts or {}, error=RPC_FAILURE)
            # The daemon has gone and the server goes on.
            links = links[:1]
