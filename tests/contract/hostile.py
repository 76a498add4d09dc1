# SPDX-License-Identifier: MPL-2.0
"""What a process of another user does beside the plugin: real processes, ended after the test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")

_BECOME = f"import json, os, signal, socket, sys; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
"""Started as root, and all imported as root, because nobody else may have this Python."""

_CROWD = """
many, prefix = int(sys.argv[1]), json.loads(sys.argv[2])
sys.stdin.readline()
pids = []
for number in range(many):
    pid = os.fork()
    if not pid:
        ids = [f"{gpu}-{(k + number) % 512}" for gpu in prefix for k in range(512)]
        given = {"NVIDIA_VGPU_IDS": ",".join(ids), "NOMAD_ALLOC_ID": f"{number:08x}"}
        given |= {f"FILL{k}": "x" * 100_000 for k in range(4)}
        os.execve("/bin/sleep", ["sleep", "1000"], given)
    pids.append(pid)
print(json.dumps(pids), flush=True)
signal.pause()
"""


def command(script: str, *words: str) -> list[str]:
    """Gives what runs a script as a user who is nobody's friend."""
    return [sys.executable, "-S", "-c", _BECOME + script, *words]


def done(script: str, *words: str) -> str:
    """Gives what a script prints that runs as that user."""
    ran = subprocess.run(
        command(script, *words), capture_output=True, text=True, check=True, timeout=120
    )
    return ran.stdout.strip()


@contextmanager
def running(script: str, *words: str, cgroup: Path | None = None) -> Iterator[Any]:
    """Gives the one line of JSON that such a script prints while it runs on, with all it starts.

    It begins when it has read a line, which is when it is in the cgroup.
    """
    with subprocess.Popen(
        command(script, *words),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            if cgroup is not None:
                (cgroup / "cgroup.procs").write_text(str(process.pid))
            print(file=process.stdin, flush=True)
            yield json.loads(process.stdout.readline())
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def crowd(many: int, gpus: Sequence[str], cgroup: Path | None = None) -> Iterator[list[int]]:
    """Gives the pids of so many processes, each of which claims 512 vGPUs of each of these GPUs.

    Each in other words than the next, and with as much besides as a person would not.
    """
    with running(_CROWD, str(many), json.dumps(gpus), cgroup=cgroup) as pids:
        yield pids
