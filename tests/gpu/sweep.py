# SPDX-License-Identifier: MPL-2.0
"""Ends by pid what an experiment left running, known by the experiment's directory."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gpu.control_tool import tool
from nomad_nvidia_vgpu.errors import MpsError

_PATIENCE_S = 4.0
_POLL_S = 0.05
_MPS = b"nvidia-cuda-mps"
_PROC = Path("/proc")


def sweep(directory: Path, log: Callable[[str], None]) -> list[int]:
    """Ends every process whose environment names `directory`, and gives the pids that stay.

    Daemons are told to quit when their clients have gone; a kill is for those that do not listen.
    """
    _end([pid for pid, mps in marked(directory) if not mps], log)
    for pipe in sorted(directory.glob("**/pipe")):
        environment = {
            name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ
        }
        if any(mps for _, mps in marked(pipe)):
            with contextlib.suppress(MpsError, OSError):
                log(f"sweep: quit {pipe}")
                tool({**environment, "CUDA_MPS_PIPE_DIRECTORY": str(pipe)}, given="quit")
    deadline = time.monotonic() + _PATIENCE_S
    while list(marked(directory)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    _end([pid for pid, _ in marked(directory)], log)
    return [pid for pid, _ in marked(directory)]


def marked(directory: Path) -> Iterator[tuple[int, bool]]:
    """Other processes whose environment names `directory`, and whether each is one of MPS."""
    mark = str(directory).encode()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is not ours
            if mark in (entry / "environ").read_bytes():
                yield int(entry.name), _MPS in (entry / "cmdline").read_bytes()


def _end(pids: list[int], log: Callable[[str], None]) -> None:
    for pid in pids:
        log(f"sweep: kill {pid}")
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _PATIENCE_S
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _alive(pid: int) -> bool:
    """Whether it still runs; one that has ended and was not waited for does not."""
    with contextlib.suppress(OSError, IndexError):
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
