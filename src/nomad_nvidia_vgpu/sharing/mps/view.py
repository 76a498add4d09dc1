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

_WORKING = ("ready", "ACTIVE", "INITIALIZING", "")


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

    @property
    def working(self) -> bool:
        """Whether clients can use it."""
        return all(word in _WORKING for word in self.state.split("/"))


def daemon_views(config: MpsConfig) -> list[DaemonView]:
    """The daemons under `mps.root`, by UUID; may take some seconds each."""
    return [_view(config, uuid) for uuid in known_uuids(Path(config.root))]


def _view(config: MpsConfig, uuid: str) -> DaemonView:
    try:
        daemon = MpsDaemon(Path(gpu_directory(config, uuid)), uuid, find_program())
        if not daemon.running():
            return DaemonView(uuid, "not running")
        servers = daemon.servers()
        memory, percentage = daemon.limits(servers)
        record = daemon.record()
    except (MpsError, OSError) as error:
        return DaemonView(uuid, str(error))
    return DaemonView(
        uuid,
        "/".join(server.status for server in servers) or "ready",
        record.multi_user if record else None,
        memory,
        percentage,
        tuple(pid for server in servers for pid in server.clients or ()),
    )
