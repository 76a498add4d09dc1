# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu top` beside nothing: the installed program, our library, real processes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from libnvidia_ml.driver import FakeDriver

from .conftest import PROGRAM, fact

PATIENCE_S = 60.0
TOP = [str(PROGRAM), "top", "--vgpus", "2"]


@contextmanager
def task(node: FakeDriver, gpu: str, vgpu: int) -> Iterator[int]:
    """A process that holds a vGPU by its environment and uses 3000 MiB; its pid."""
    own = {
        "NVIDIA_VGPU_IDS": f"{fact(node, gpu, 'uuid')}-{vgpu}",
        "NOMAD_TASK_NAME": "infer",
        "NOMAD_JOB_ID": "llm",
    }
    waits = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(
        waits, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **own}
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it runs, with this environment
        node.set(gpu, "compute_processes", f"{process.pid}:3000 1:7")
        try:
            yield process.pid
        finally:
            process.kill()


class Screen:
    """The program on a terminal."""

    def __init__(self, node: FakeDriver, *arguments: str) -> None:
        """Starts it."""
        self._terminal, inner = pty.openpty()
        environment = {**os.environ, **node.environment(), "TERM": "xterm", "COLUMNS": "160"}
        self.process = subprocess.Popen(
            [*TOP, *arguments],
            env=environment,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
        )
        os.close(inner)
        self.shown = ""

    def wait_for(self, text: str) -> None:
        """Reads until this has been shown."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.shown:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} was never shown: {self.shown}"
            if select.select([self._terminal], [], [], left)[0]:
                data = os.read(self._terminal, 1 << 16).decode("utf-8", "replace")
                self.shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data)

    def leave(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            os.close(self._terminal)


def once(node: FakeDriver, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One look."""
    return subprocess.run(
        [*TOP, "--once", *arguments],
        env={**os.environ, **node.environment()},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def test_a_real_process_is_shown_on_its_vgpu(node: FakeDriver) -> None:
    """Found by the driver's list, known by its environment; what is not a task's is nobody's."""
    node.load("h100x8")
    with task(node, "gpu 2", 1) as pid:
        done = once(node, "--json", "--explain")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert len(document["gpus"]) == 8
    uuid = fact(node, "gpu 2", "uuid")
    (found,) = (gpu for gpu in document["gpus"] if gpu["uuid"] == uuid)
    (shown,) = found["usage"]["tasks"]
    assert (shown["job"], shown["task"], shown["vgpus"]) == ("llm", "infer", [f"{uuid}-1"])
    assert shown["processes"] == [{"pid": pid, "memory_mib": 3000}]
    assert [stray["pid"] for stray in found["usage"]["unattributed"]] == [1]
    (verdict,) = document["memory_guard"]
    assert verdict["verdict"] == "nothing happens: it is within its limit"


def test_it_lives_on_a_terminal_until_ctrl_c(node: FakeDriver) -> None:
    """What changes is shown at the next look, and leaving is no error."""
    node.load("h100x8")
    screen = Screen(node, "--interval", "0.2")
    screen.wait_for("NVIDIA H100")
    assert "llm/infer" not in screen.shown
    with task(node, "gpu 0", 0):
        screen.wait_for("llm/infer")
        assert screen.leave() == 0


def test_a_driver_that_hangs_can_be_left(node: FakeDriver) -> None:
    """Ctrl-C works while a call into the driver does not return."""
    node.load("h100x8")
    screen = Screen(node, "--interval", "0.2")
    screen.wait_for("NVIDIA H100")
    node.set("gpu 0", "hang.nvmlDeviceGetMemoryInfo", "1")
    hanging = node.calls()["nvmlDeviceGetMemoryInfo"]
    deadline = time.monotonic() + PATIENCE_S
    while node.calls()["nvmlDeviceGetMemoryInfo"] <= hanging:
        assert time.monotonic() < deadline, "the driver was not called"
        time.sleep(0.02)  # between two looks at another process's log
    assert screen.leave() == 0


@pytest.mark.parametrize(
    ("init_error", "says"), [("9", "modprobe nvidia"), ("4", "run the Nomad agent as root")]
)
def test_a_driver_that_cannot_be_used_is_one_sentence(
    node: FakeDriver, init_error: str, says: str
) -> None:
    """Not loaded, not permitted: each with its remedy, and nothing else on standard error."""
    node.load("h100x8")
    node.set("driver", "init_error", init_error)
    done = once(node)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_gpu_is_one_sentence(node: FakeDriver) -> None:
    """A driver without GPUs is no error."""
    node.load("none")
    done = once(node)
    assert done.returncode == 0
    assert done.stderr == "nvidia-vgpu: this node has no GPU that would be published\n"
