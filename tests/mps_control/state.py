# SPDX-License-Identifier: MPL-2.0
"""What the test and the programs share: switches, records, and which processes are ours.

Everything lies in one directory beside the executables, since the program under test hands its
children no variable that could name another.
"""

import fcntl
import json
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .versions import NEWEST, VERSIONS, Version

HOME = ".fake-mps"
LOGS = ("starts", "commands", "processes")
ALL = "*"
"""As a command or a pipe directory: whichever it is."""

# In the pipe directory.
CONTROL = "control"
PRIVILEGED = "control_privileged"
LOCK = "control_lock"
LOG = "log"
PID = "nvidia-cuda-mps-control.pid"

PRETENDED_USER = "FAKE_MPS_USER"
"""A variable of the tool: the user that it pretends to be."""

SERVER = "nvidia-cuda-mps-server"

# CUDA's errors.
NO_DEVICE, UNAVAILABLE = 100, 46
CANNOT_CONNECT, RPC_FAILURE, NOT_READY, TOO_MANY_CLIENTS, TERMINATED = 805, 806, 807, 808, 810

# How often a program that was told to wait looks whether it may go on.
POLL_S = 0.01


class Rule(NamedTuple):
    """One switch: what goes wrong, for which command, in which pipe directory."""

    kind: str
    command: str = ALL
    pipe: str = ALL
    text: str = ""
    code: int = 0

    def hits(self, kind: str, command: str, pipe: str) -> bool:
        """Whether this is the switch that is asked about."""
        return (
            self.kind == kind and self.command in (ALL, command) and self.pipe in (ALL, pipe or ALL)
        )


class State:
    """The switches as they are now, and where records go."""

    def __init__(self, home: Path) -> None:
        """`home` exists; the switches may be absent."""
        self.home = home
        self._switches = home / "switches.json"

    def read(self) -> tuple[list[Rule], dict[str, Any]]:
        """The rules and the settings in force now."""
        try:
            document = json.loads(self._switches.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return [], {}
        return [Rule(*rule) for rule in document["rules"]], document["settings"]

    def write(self, rules: list[Rule], settings: Mapping[str, Any]) -> None:
        """Replace rules and settings at once, for programs that are running too."""
        fresh = self._switches.with_suffix(".new")
        fresh.write_text(json.dumps({"rules": rules, "settings": settings}), encoding="utf-8")
        fresh.replace(self._switches)

    def rule(self, kind: str, command: str = ALL, pipe: str = "") -> Rule | None:
        """The first rule of that kind for this command and pipe directory."""
        return next((rule for rule in self.read()[0] if rule.hits(kind, command, pipe)), None)

    def setting(self, name: str, fallback: Any) -> Any:
        """The value a test has chosen, else the fallback."""
        return self.read()[1].get(name, fallback)

    def version(self) -> Version:
        """Which driver's tool this is."""
        return VERSIONS[self.setting("version", NEWEST)]

    def wait_out(self, kind: str, command: str = ALL, pipe: str = "") -> None:
        """Return once no rule of that kind is in force; until then a test can end this process."""
        if self.rule(kind, command, pipe) is None:
            return
        self.record_process("hanging", pipe)
        while self.rule(kind, command, pipe) is not None:
            time.sleep(POLL_S)

    def record(self, log: str, entry: Mapping[str, Any]) -> None:
        """Append one line; lines of several processes never mix."""
        line = json.dumps(entry) + "\n"
        log_fd = os.open(self.home / log, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(log_fd, line.encode())
        finally:
            os.close(log_fd)

    def records(self, log: str) -> list[dict[str, Any]]:
        """Every whole line so far, oldest first."""
        text = (self.home / log).read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def record_process(self, kind: str, pipe: str) -> None:
        """Make the calling process known, so that a test can find and end it."""
        pid = os.getpid()
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
        entry = {"kind": kind, "pid": pid, "born": born(pid), "pipe": pipe, "devices": devices}
        self.record("processes", entry)

    def living(self, kind: str = ALL, pipe: str = ALL) -> list[dict[str, Any]]:
        """Records of processes that are alive."""
        return [
            entry
            for entry in self.records("processes")
            if kind in (ALL, entry["kind"]) and pipe in (ALL, entry["pipe"]) and is_alive(entry)
        ]


class Directories(NamedTuple):
    """Where a daemon lives; the real defaults are shared with the machine's own MPS."""

    pipe: Path
    log: Path


def directories(state: State) -> Directories:
    """The two directories of the environment, else two of our own."""
    pipe = os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or str(state.home / "tmp-nvidia-mps")
    log = os.environ.get("CUDA_MPS_LOG_DIRECTORY") or str(state.home / "var-log-nvidia-mps")
    return Directories(Path(pipe), Path(log))


def lock_holder(pipe: Path) -> int | None:
    """The daemon of a pipe directory: who holds the lock there; None where nobody does."""
    try:
        lock_fd = os.open(pipe / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack("hhqqi4x", fcntl.fcntl(lock_fd, fcntl.F_GETLK, asked))
    finally:
        os.close(lock_fd)
    return None if kind == fcntl.F_UNLCK else pid


def born(pid: int) -> str | None:
    """What tells this process from a later one of the same pid; None once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    status = fields.rpartition(")")[2].split()
    # A daemon's parent is a stranger who may never collect it.
    return None if status[0] in "ZX" else status[19]


def is_alive(entry: Mapping[str, Any]) -> bool:
    """Whether the process of this record still is the one that was recorded."""
    return entry["born"] is not None and born(entry["pid"]) == entry["born"]
