# SPDX-License-Identifier: MPL-2.0
"""The MPS daemons as a table."""

from __future__ import annotations

import pytest

from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.cli.tables.daemons import mps_tables
from nomad_nvidia_vgpu.sharing.mps.view import DaemonView


def test_each_daemon_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Server, limits in force and clients; what is not known is a dash."""
    working = DaemonView("GPU-a", "ACTIVE", True, "4G", "25.0", (7, 8))
    style.show(*mps_tables([working, DaemonView("GPU-b", "not running")]))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["GPU-a", "ACTIVE", "yes", "4G", "25.0", "7,", "8"] in rows
    assert ["GPU-b", "not", "running", "-", "-", "-", "-"] in rows


def test_without_daemons_there_is_no_table() -> None:
    """A node that shares by time-slicing sees nothing of MPS."""
    assert mps_tables([]) == ()
