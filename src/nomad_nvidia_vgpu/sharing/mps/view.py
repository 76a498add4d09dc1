# SPDX-License-Identifier: MPL-2.0
"""A look at the MPS daemons of this node that changes nothing, for people."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from nomad_nvidia_vgpu.config.options import MpsConfig
from nomad_nvidia_vgpu.errors import MpsError
from nomad_nvidia_vgpu.sharing.mps.control import find_program
from nomad_nvidia_vgpu.sharing.mps.daemon import MpsDaemon, known_uuids
from nomad_nvidia_vgpu.sharing.mps.layout import gpu_directory

_WORKING = ("ready", "ACTIVE", "INITIALIZING", "unknown")


class DaemonView(NamedTuple):
    """One GPU's daemon as it is now."""

    uuid: str
    state: str
    """`ready` without a server yet, the server's status, or why nothing can be said."""
    multi_user: bool | None = None
    memory_limit: str | None = None
    """In force for new clients that set none, in the tool's words."""
    thread_percentage: str | None = None
    clients: tuple[int, ...] = ()
    """The processes that use it, by pid."""
    priority: str | None = None
    """Of new clients that ask for none: `0` normal, `1` below normal."""

    @property
    def working(self) -> bool:
        """Whether clients can use it."""
        return all(word in _WORKING for word in self.state.split("/"))


def daemon_views(config: MpsConfig, path: str | None = None) -> list[DaemonView]:
    """The daemons under `mps.root`, by UUID; may take some seconds each.

    By the tool that a process with this PATH finds, by default this one.
    """
    return [_view(config, uuid, path) for uuid in known_uuids(Path(config.root))]


def _view(config: MpsConfig, uuid: str, path: str | None) -> DaemonView:
    try:
        daemon = MpsDaemon(Path(gpu_directory(config, uuid)), uuid, find_program(path))
        if not daemon.alive():
            return DaemonView(uuid, "not running")
        reading = daemon.read()
        record = daemon.record()
    except (MpsError, OSError) as error:
        return DaemonView(uuid, str(error))
    first = reading.ready[0] if reading.ready else reading
    return DaemonView(
        uuid,
        "/".join(server.status or "unknown" for server in reading.servers) or "ready",
        record.multi_user if record else None,
        first.memory or None,
        first.percentage,
        tuple(pid for server in reading.servers for pid in server.clients or ()),
        reading.priority,
    )
