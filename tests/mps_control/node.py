# SPDX-License-Identifier: MPL-2.0
"""A GPU with MPS as the tests of the fake see it: its tool, its daemon, its clients."""

import json
import os
import select
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .control import FakeMps
from .state import PRETENDED_USER, lock_holder
from .versions import NEWEST, VERSIONS, Version

# Far above what anything takes: what hangs by mistake must not hang the test run.
PATIENCE_S = 100


def wait_until(condition: Callable[[], object]) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


class Held:
    """A `fake-cuda-client` that stays."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        """Takes the process over; it may still wait for a server."""
        self.process = process
        self.pid = process.pid

    def line(self) -> dict[str, Any]:
        """What it says next, waiting for it."""
        assert self.process.stdout is not None
        facts: dict[str, Any] = json.loads(self.process.stdout.readline())
        return facts

    def has_spoken(self) -> bool:
        """Whether there is a line to read."""
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def end(self) -> None:
        """SIGTERM, and wait."""
        self.process.terminate()
        self.process.wait(PATIENCE_S)


class ToolGpu:
    """One GPU, whose daemon has directories of its own, and a tool that may be real."""

    def __init__(
        self, control: Path, version: Version, directory: Path, uuid: str, stack: ExitStack
    ) -> None:
        """Make the directories' parent; processes that are started end with `stack`.

        Beside the tool stands what the daemon finds as its server.
        """
        directory.mkdir()
        self.control = control
        self.version = version
        self.is_real = False
        self.uuid = uuid
        self.pipe = directory / "pipe"
        self.log = directory / "log"
        self.environment = {
            "PATH": f"{control.parent}:{os.environ['PATH']}",
            "CUDA_MPS_PIPE_DIRECTORY": str(self.pipe),
            "CUDA_MPS_LOG_DIRECTORY": str(self.log),
            "CUDA_VISIBLE_DEVICES": uuid,
        }
        self._stack = stack

    def popen(self, program: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        """Start a program with pipes for all its streams."""
        process = subprocess.Popen(
            [program, *arguments],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self.environment, **environment},
        )
        self._stack.callback(_finish, process)
        return process

    def run(
        self, *arguments: str, text: str = "", user: int | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run the tool to its end, as this user."""
        # Other users often have no way to the Python of the fake, which so only pretends.
        pretended = {} if user is None or self.is_real else {PRETENDED_USER: str(user)}
        return subprocess.run(
            [self.control, *arguments],
            input=text,
            text=True,
            capture_output=True,
            env={**self.environment, **pretended},
            timeout=PATIENCE_S,
            check=False,
            user=user if self.is_real else None,
        )

    def start(self, *options: str) -> int:
        """Bring the daemon up; returns its pid."""
        done = self.run("-d", *options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        pid = lock_holder(self.pipe)
        assert pid
        return pid

    def tell(self, *lines: str) -> list[str]:
        """Run the tool with these commands; returns what it printed, which must succeed."""
        done = self.run(text="".join(f"{line}\n" for line in lines))
        assert done.returncode == 0, done
        return done.stdout.splitlines()

    def ask(self, line: str) -> str:
        """The whole answer to one command."""
        return "\n".join(self.tell(line))

    def server(self) -> int:
        """The pid of the only server."""
        return int(self.ask("get_server_list"))


class Gpu(ToolGpu):
    """The same with the fake, and with processes that use it."""

    def __init__(self, mps: FakeMps, directory: Path, uuid: str, stack: ExitStack) -> None:
        """Make the directories' parent; processes that are started end with `stack`."""
        super().__init__(mps.control, VERSIONS[NEWEST], directory, uuid, stack)
        self.mps = mps

    def client(self, *arguments: str, **environment: str) -> dict[str, Any]:
        """Run a client to its end; returns what it printed."""
        process = self.popen(self.mps.client, *arguments, **environment)
        out, err = process.communicate(timeout=PATIENCE_S)
        assert not err
        facts: dict[str, Any] = json.loads(out)
        return facts

    def hold(self, *arguments: str, **environment: str) -> Held:
        """Start a client that stays."""
        return Held(self.popen(self.mps.client, "--hold", *arguments, **environment))


def _finish(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
