# SPDX-License-Identifier: MPL-2.0
"""The MPS daemons of this node as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.sharing.mps.view import DaemonView


def mps_tables(daemons: Sequence[DaemonView]) -> tuple[Table, ...]:
    """One table, or none where there is no daemon."""
    if not daemons:
        return ()
    columns = ("GPU", "Server", "Multi-user", "Memory limit", "SM limit %", "Clients")
    return (style.table("MPS daemons", columns, [_row(view) for view in daemons]),)


def _row(view: DaemonView) -> tuple[object, ...]:
    return (
        view.uuid,
        view.state,
        None if view.multi_user is None else ("yes" if view.multi_user else "no"),
        view.memory_limit,
        view.thread_percentage,
        ", ".join(str(pid) for pid in view.clients) or None,
    )
