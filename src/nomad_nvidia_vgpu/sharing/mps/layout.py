# SPDX-License-Identifier: MPL-2.0
"""The names of the programs, folders and files of MPS on a node.

Below `mps.root` each GPU has a folder, with `pipe` (where clients meet the daemon), `log` and a
record of how the daemon was started.
"""

from __future__ import annotations

from nomad_nvidia_vgpu.config.blocks import MpsConfig

PROGRAM = "nvidia-cuda-mps-control"
"""The tool, and the daemon that it becomes."""
SERVER_PROGRAM = "nvidia-cuda-mps-server"

PIPE = "pipe"
LOG = "log"
CONTROL_LOG = f"{LOG}/control.log"
SERVER_LOG = f"{LOG}/server.log"
START_LOG = f"{LOG}/start.log"
RECORD = "daemon.json"
"""How a daemon was started."""

JOURNAL = "compute-modes.json"
"""Below `mps.root`: the compute modes from before ours."""
CONTROL_LOCK = f"{PIPE}/control_lock"
"""The daemon holds a lock on it for as long as it lives, in every version."""
TURN = "turn"
"""Held by the process of ours that speaks to the daemon, which answers one at a time."""
LONGEST_PIPE_BYTES = 87
"""A longer path leaves no room for the names of the daemon's sockets: it ends without a word."""

LOCK = "lock"
"""Below `mps.root`: held by the process that keeps the daemons."""

PIPE_ENV = "CUDA_MPS_PIPE_DIRECTORY"
LOG_ENV = "CUDA_MPS_LOG_DIRECTORY"
MEMORY_ENV = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
PERCENTAGE_ENV = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
PRIORITY_ENV = "CUDA_MPS_CLIENT_PRIORITY"


# Strings and not paths: a start that shares nothing by MPS would pay for pathlib.
def gpu_directory(config: MpsConfig, uuid: str) -> str:
    """Where all that belongs to the daemon of a GPU is; it never moves, because tasks name it."""
    name = uuid.replace("/", "_")  # old MIG UUIDs have slashes
    return f"{config.root}/{name}"


def pipe_directory(config: MpsConfig, uuid: str) -> str:
    """Where clients meet the daemon of a GPU."""
    return f"{gpu_directory(config, uuid)}/{PIPE}"
