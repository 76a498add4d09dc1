# SPDX-License-Identifier: MPL-2.0
"""The node as a doctor reaches it: files, programs, GPUs and Nomad's API."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nomad_nvidia_vgpu.cli.agent.validation import Refusal, refusal
from nomad_nvidia_vgpu.cli.diagnosis.docker_api import DockerLook, look_at_docker
from nomad_nvidia_vgpu.cli.diagnosis.driver_look import DriverLook, look_at_driver
from nomad_nvidia_vgpu.cli.diagnosis.nomad_api import NomadLook, look_at_nomad
from nomad_nvidia_vgpu.config.blocks import MpsConfig
from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus
from nomad_nvidia_vgpu.sharing.mps.control import located_server
from nomad_nvidia_vgpu.sharing.mps.view import DaemonView, daemon_views

_RUN_S = 5.0
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are that a person's own PATH may not name."""
_LABEL = "security.selinux"


def _which(program: str, path: str | None) -> str | None:
    return shutil.which(program, path=path) or shutil.which(program, path=_SYSTEM_PATH)


def _output(command: Sequence[str], path: str | None) -> str:
    """What a program prints; OSError if it cannot be run, does not end, or fails."""
    if path is None:
        path = os.environ.get("PATH", _SYSTEM_PATH)
    try:
        done = subprocess.run(  # noqa: S603  the callers' own words
            command,
            env={"PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_RUN_S,
            check=True,
        )
    except subprocess.SubprocessError as error:
        raise OSError(0, str(error)) from error
    return done.stdout.decode("utf-8", "replace")


def _label(path: Path) -> str | None:
    """The SELinux label of a file; None if it has none."""
    try:
        return os.getxattr(path, _LABEL).decode("utf-8", "replace").rstrip("\0")
    except OSError:
        return None


@dataclass(frozen=True)
class Node:
    """Paths and ways to ask. A test makes any node of it."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    etc: Path = Path("/etc")
    run: Path = Path("/run")
    dev: Path = Path("/dev")
    name: str = field(default_factory=platform.node)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    uid: int = field(default_factory=os.geteuid)
    which: Callable[[str, str | None], str | None] = _which
    """Where a program is for a process with this PATH (None: ours), or where systems have theirs."""
    output: Callable[[Sequence[str], str | None], str] = _output
    """What a program prints when a process with this PATH (None: ours) starts it; OSError."""
    label: Callable[[Path], str | None] = _label
    """The SELinux label of a file."""
    driver: Callable[[Sequence[SimulatedGpus]], DriverLook] = look_at_driver
    daemons: Callable[[MpsConfig, str | None], Sequence[DaemonView]] = daemon_views
    """The MPS daemons, asked by the tool of an agent with this PATH."""
    mps_server: Callable[[str, str | None], str | None] = located_server
    """Where the daemon of a tool finds its server, for an agent with this PATH."""
    docker: Callable[[Path], DockerLook] = look_at_docker
    """Asks the dockerd behind a socket."""
    refusal: Callable[[str, Sequence[Path]], Refusal | None] = refusal
    """What the program `nomad` has against an agent's files."""
    nomad: Callable[[Mapping[str, str], str], NomadLook] = look_at_nomad
    """Asks the agent's API; takes the environment and the node's name."""
