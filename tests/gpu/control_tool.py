# SPDX-License-Identifier: MPL-2.0
"""An MPS daemon of one GPU and NVIDIA's tool for it, word for word."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from nomad_nvidia_vgpu.errors import MpsError
from nomad_nvidia_vgpu.sharing.mps.control import MpsControl, find_program
from nomad_nvidia_vgpu.sharing.mps.layout import PROGRAM
from nomad_nvidia_vgpu.sharing.mps.reading import Server

_ANSWER_S = 5.0
_POLL_S = 0.1


class Said(NamedTuple):
    """What the tool made of one command."""

    status: int | None
    """Its exit status, None if it had to be killed."""
    text: str
    seconds: float

    def __str__(self) -> str:
        """As a table shows it."""
        words = " / ".join(self.text.split("\n")).strip(" /") or "no word"
        return f"{words}" if self.status == 0 else f"{words} (exit status {self.status})"


def tool(environment: dict[str, str], arguments: Sequence[str] = (), given: str = "") -> Said:
    """Runs the tool once; MpsError where there is none.

    Its streams are files: a daemon that it starts keeps them.
    """
    program = find_program()
    began = time.monotonic()
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as output:
        stdin.write(f"{given}\n".encode())
        stdin.seek(0)
        process = subprocess.Popen(
            [program, *arguments],
            env=environment,
            stdin=stdin,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        status: int | None
        try:
            status = process.wait(_ANSWER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
        output.seek(0)
        text = output.read().decode("utf-8", "replace").rstrip("\n")
    return Said(status, text, time.monotonic() - began)


class Daemon:
    """One daemon with directories of its own, started without the plugin."""

    def __init__(self, directory: Path, uuid: str, log: Callable[[str], None]) -> None:
        """Starts nothing yet."""
        self.pipe, self.logs = directory / "pipe", directory / "log"
        for part in (self.pipe, self.logs):
            part.mkdir()
            part.chmod(0o755)
        self._uuid = uuid
        self._log = log
        self._directory = directory
        self.environment = {
            name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ
        } | {
            "CUDA_MPS_PIPE_DIRECTORY": str(self.pipe),
            "CUDA_MPS_LOG_DIRECTORY": str(self.logs),
            "CUDA_VISIBLE_DEVICES": uuid,
        }

    def start(self, *flags: str) -> None:
        """Starts it; MpsError with what the tool said."""
        said = self.tell(arguments=("-d", *flags))
        if said.status != 0:
            raise MpsError(f"{PROGRAM} -d {' '.join(flags)}: {said}")

    def tell(self, given: str = "", arguments: Sequence[str] = ()) -> Said:
        """One command, or one run of the tool with arguments."""
        said = tool(self.environment, arguments, given)
        self._log(f"tool {' '.join(arguments)} {given!r}: {said.status} {said.text!r}")
        return said

    def client(self, **limits: str) -> dict[str, str]:
        """The environment of a client."""
        return {
            "CUDA_VISIBLE_DEVICES": self._uuid,
            "CUDA_MPS_PIPE_DIRECTORY": str(self.pipe),
            **limits,
        }

    def servers(self) -> tuple[Server, ...]:
        """Its servers, as the plugin reads them; MpsError."""
        return MpsControl(self._directory, self._uuid, find_program()).read().servers

    def control(self) -> MpsControl:
        """The plugin's way to talk to it."""
        return MpsControl(self._directory, self._uuid, find_program())

    def status(self) -> str:
        """Status of its servers, for a table."""
        servers = self.servers()
        return ", ".join(server.status or "unknown" for server in servers) or "no server"

    def statuses(self, seconds: float) -> list[tuple[float, str]]:
        """The status of its servers for a while: each change, with the seconds since the call."""
        began = time.monotonic()
        seen: list[tuple[float, str]] = []
        while (after_s := time.monotonic() - began) < seconds:
            status = self.status()
            if not seen or seen[-1][1] != status:
                seen.append((round(after_s, 2), status))
            time.sleep(_POLL_S)
        return seen

    def stop(self) -> None:
        """Tells it to end; whoever does not is ended by the sweep."""
        with contextlib.suppress(MpsError, OSError):
            self.tell("quit")
