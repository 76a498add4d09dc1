# SPDX-License-Identifier: MPL-2.0
"""Installing the fake MPS and steering it while programs use it.

    mps = install(tmp_path / "bin")
    environment = {**os.environ, **mps.environment()}      # for the program under test
    mps.hang("get_default_active_thread_percentage")
    ...
    assert [c.line for c in mps.commands()] == [...]
    mps.stop_all()

Every switch takes `pipe`, a daemon's pipe directory, and without it concerns all of them; it holds
until `heal`. README.md beside this file says what is known of the real tool and what is a guess.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .state import ALL, HOME, LOGS, POLL_S, SERVER, Rule, State, is_alive

ComputeMode = Literal["DEFAULT", "PROHIBITED", "EXCLUSIVE_PROCESS"]

_PATIENCE_S = 60.0
# Linux cuts longer ones off.
_LONGEST_SHEBANG = 255


class Start(NamedTuple):
    """One launch of a daemon, whether or not it came up."""

    pid: int
    """Of the process that was launched, which is not the daemon's."""
    arguments: tuple[str, ...]
    names: frozenset[str]
    """Of every environment variable."""
    cuda: Mapping[str, str]
    """The variables that begin with CUDA_."""
    streams: tuple[str, str, str]
    """What the standard streams were connected to, such as `/dev/null` and `pipe:[7]`."""
    leads_session: bool
    """Or the `timeout` that started it does."""


class Command(NamedTuple):
    """One line that the control tool read, recorded before it is obeyed."""

    pid: int
    line: str
    pipe: str
    names: frozenset[str]
    cuda: Mapping[str, str]
    streams: tuple[str, str, str]
    leads_session: bool


class Process(NamedTuple):
    """A daemon, server or client that is alive."""

    pid: int
    pipe: str


class FakeMps:
    """One installation: its executables, its switches, its records and its processes.

    Not for use from several threads at once.
    """

    def __init__(self, directory: Path) -> None:
        """Use what `install` put there."""
        self.directory = directory
        self.control = directory / "nvidia-cuda-mps-control"
        self.client = directory / "fake-cuda-client"
        self._state = State(directory / HOME)
        self._rules: list[Rule] = []
        self._settings: dict[str, Any] = {}

    def environment(self) -> dict[str, str]:
        """Return the PATH that finds the fake first."""
        return {"PATH": f"{self.directory}:{os.environ.get('PATH', os.defpath)}"}

    # ---- what was asked of it ----

    def starts(self) -> list[Start]:
        """Every launch with `-d` or `-f`, oldest first."""
        return [
            Start(
                pid=entry["pid"],
                arguments=tuple(entry["arguments"]),
                names=frozenset(entry["names"]),
                cuda=entry["cuda"],
                streams=tuple(entry["streams"]),
                leads_session=entry["leads_session"],
            )
            for entry in self._state.records("starts")
        ]

    def commands(self, pipe: Path | None = None) -> list[Command]:
        """Every command so far, those that hang included, oldest first."""
        return [
            Command(
                pid=entry["pid"],
                line=entry["line"],
                pipe=entry["pipe"],
                names=frozenset(entry["names"]),
                cuda=entry["cuda"],
                streams=tuple(entry["streams"]),
                leads_session=entry["leads_session"],
            )
            for entry in self._state.records("commands")
            if pipe is None or entry["pipe"] == str(pipe)
        ]

    def forget(self) -> None:
        """Empty the records of starts and commands."""
        for log in ("starts", "commands"):
            (self._state.home / log).write_text("")

    def daemons(self, pipe: Path | None = None) -> list[Process]:
        """The control daemons that are alive."""
        return self._alive("daemon", pipe)

    def servers(self, pipe: Path | None = None) -> list[Process]:
        """The MPS servers that are alive."""
        return self._alive("server", pipe)

    def clients(self, pipe: Path | None = None) -> list[Process]:
        """The `fake-cuda-client`s that are alive."""
        return self._alive("client", pipe)

    # ---- what goes wrong ----

    def hang(self, command: str = ALL, *, pipe: Path | None = None) -> None:
        """The tool gets no answer to this command (its first word), or to any."""
        self._add("hang", pipe, command=command)

    def refuse(self, command: str, text: str, *, code: int = 0, pipe: Path | None = None) -> None:
        """The tool answers with this text, ends with this exit code, and does nothing."""
        self._add("refuse", pipe, command=command, text=text, code=code)

    def lie(self, command: str, answer: str = "", *, pipe: Path | None = None) -> None:
        """A `set_…` is acknowledged and not applied; anything else gets this answer."""
        self._add("lie", pipe, command=command, text=answer)

    def fail_start(self, text: str, *, code: int = 1, pipe: Path | None = None) -> None:
        """A daemon says this on stderr instead of starting."""
        self._add("fail_start", pipe, text=text, code=code)

    def hang_start(self, *, listening: bool = False, pipe: Path | None = None) -> None:
        """`-d` does not return; if `listening`, the daemon is there all the same."""
        self._add("hang_start_listening" if listening else "hang_start", pipe)

    def die_after_start(self, *, pipe: Path | None = None) -> None:
        """`-d` returns with success, and the daemon is dead by then."""
        self._add("die_after_start", pipe)

    def keep_streams(self, *, pipe: Path | None = None) -> None:
        """A daemon keeps the standard streams it was started with."""
        self._add("keep_streams", pipe)

    def ignore_quit(self, *, pipe: Path | None = None) -> None:
        """A daemon answers `quit` and stays."""
        self._add("ignore_quit", pipe)

    def fail_server(self, *, pipe: Path | None = None) -> None:
        """Servers end with status 1 as soon as they start."""
        self._add("fail_server", pipe)

    def hold_initializing(self, *, pipe: Path | None = None) -> None:
        """Servers that are started stay INITIALIZING, and their clients wait."""
        self._add("initializing", pipe)

    def pre_volta(self, *, pipe: Path | None = None) -> None:
        """A multi-user daemon starts, and then every client is refused."""
        self._add("pre_volta", pipe)

    def heal(self, *, pipe: Path | None = None) -> None:
        """Nothing goes wrong from now on, or nothing that was switched for this `pipe` alone."""
        self._rules = [rule for rule in self._rules if pipe and rule.pipe != str(pipe)]
        self._write()

    def fault(self, pipe: Path) -> None:
        """The server is in FAULT until all that are its clients now have left.

        Raises AssertionError where it has none.
        """
        assert self._tell(pipe, {"admin": "fault"})["faulted"], f"no client in {pipe}"

    def kill_daemon(self, pipe: Path) -> None:
        """End the daemon as the kernel's out-of-memory killer would; its files stay."""
        self._end(self._records("daemon", pipe))

    def kill_server(self, pipe: Path) -> None:
        """End the daemon's servers the same way."""
        self._end(self._records("server", pipe))

    # ---- how it is built ----

    def set_client_limit(self, clients: int) -> None:
        """How many clients a server takes; 48 unless set (16 before Volta, 60 from driver 590)."""
        self._set("client_limit", clients)

    def set_version(self, name: str) -> None:
        """Which driver's tool this is, a name of `VERSIONS`; the newest unless set."""
        self._set("version", name)

    def set_compute_mode(self, mode: ComputeMode, *, gpu: str = ALL) -> None:
        """What clients that meet no daemon find, for one GPU's UUID or for all."""
        self._set("compute_modes", {**self._settings.get("compute_modes", {}), gpu: mode})

    def follow_compute_modes(self, path: Path) -> None:
        """Clients find the modes that were set through the fake NVML: `FakeDriver.modes_path`."""
        self._set("compute_modes_path", str(path))

    def open_exclusive_gpus(self) -> None:
        """A client that meets no daemon gets an EXCLUSIVE_PROCESS GPU on which no server is.

        That is how the mode is documented; unless set, such a client is always refused.
        """
        self._set("open_exclusive", True)

    # ---- its end ----

    def stop_all(self) -> None:
        """End every process of this installation that is alive, and return when they are gone."""
        while left := self._state.living():
            self._end(left)

    def _add(
        self, kind: str, pipe: Path | None, *, command: str = ALL, text: str = "", code: int = 0
    ) -> None:
        self._rules.append(Rule(kind, command, str(pipe) if pipe else ALL, text, code))
        self._write()

    def _set(self, name: str, value: Any) -> None:
        self._settings[name] = value
        self._write()

    def _write(self) -> None:
        self._state.write(self._rules, self._settings)

    def _records(self, kind: str, pipe: Path | None) -> list[dict[str, Any]]:
        return self._state.living(kind, str(pipe) if pipe else ALL)

    def _alive(self, kind: str, pipe: Path | None) -> list[Process]:
        return [Process(entry["pid"], entry["pipe"]) for entry in self._records(kind, pipe)]

    def _end(self, entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            if is_alive(entry):
                with suppress(ProcessLookupError):
                    os.kill(entry["pid"], signal.SIGKILL)
        deadline = time.monotonic() + _PATIENCE_S
        while any(is_alive(entry) for entry in entries):
            assert time.monotonic() < deadline, f"{entries} cannot be killed"
            time.sleep(POLL_S)

    def _tell(self, pipe: Path, message: dict[str, Any]) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(_PATIENCE_S)
            link.connect(str(pipe / "control"))
            link.sendall(json.dumps(message).encode() + b"\n")
            with link.makefile("r", encoding="utf-8") as replies:
                reply: dict[str, Any] = json.loads(replies.readline())
        return reply


def install(directory: Path) -> FakeMps:
    """Put the executables into `directory`, which is created; a second call changes nothing."""
    home = directory / HOME
    home.mkdir(parents=True, exist_ok=True)
    # Clients of other users write their records too.
    home.chmod(0o777)
    for log in LOGS:
        (home / log).touch()
        (home / log).chmod(0o666)
    for name in ("nvidia-cuda-mps-control", SERVER, "fake-cuda-client"):
        program = directory / name
        program.write_text(_launcher(), encoding="utf-8")
        program.chmod(0o755)
    return FakeMps(directory)


def _launcher() -> str:
    """The text of all executables; no shell comes first, which would add to the environment."""
    # Neither the site's packages nor the environment: starting must be fast, and the environment
    # of the program under test is small.
    interpreter = f"#!{sys.executable} -IS"
    assert len(interpreter) < _LONGEST_SHEBANG, interpreter
    assert " " not in sys.executable, interpreter
    return "\n".join(
        (
            interpreter,
            "import sys",
            f"sys.path.insert(0, {str(Path(__file__).resolve().parent.parent)!r})",
            "from mps_control.program import main",
            "main(__file__)",
            "",
        )
    )
