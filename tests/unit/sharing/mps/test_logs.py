# SPDX-License-Identifier: MPL-2.0
"""Logs that stay small, however their writers keep them open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.sharing.mps import logs as mps_logs
from nomad_nvidia_vgpu.sharing.mps.logs import bound_logs

LINE = b"[2026-11-25 10:00:00.000 Control     7] Cmd:get_server_list\n"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log is large sooner."""
    monkeypatch.setattr(mps_logs, "LARGEST_BYTES", 1 << 16)
    monkeypatch.setattr(mps_logs, "KEPT_BYTES", 1 << 12)


def taken(file: Path) -> int:
    """Gives how much room a file takes."""
    return file.stat().st_blocks * 512


@pytest.mark.parametrize("append", [os.O_APPEND, 0], ids=["appends", "does not append"])
def test_a_log_takes_little_for_ever(tmp_path: Path, append: int) -> None:
    """Of a daemon that keeps its file open for months; the last lines are never lost."""
    log = tmp_path / "control.log"
    daemon = os.open(log, os.O_WRONLY | os.O_CREAT | append)
    for number in range(40):
        os.write(daemon, LINE * 200)
        os.write(daemon, b"pass %d\n" % number)
        bound_logs(tmp_path)
        assert taken(log) <= (1 << 16) + len(LINE) * 256
        kept = tmp_path / "control.log.1"
        older = kept.read_bytes() if kept.exists() else b""
        assert b"pass %d\n" % number in log.read_bytes() + older
    os.close(daemon)
    assert kept.stat().st_size == 1 << 12
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_small_is_left_alone(tmp_path: Path) -> None:
    """And what is no log, and where there is nothing at all."""
    (tmp_path / "server.log").write_bytes(LINE)
    (tmp_path / "core").write_bytes(LINE * 9000)
    bound_logs(tmp_path)
    bound_logs(tmp_path / "none")
    assert (tmp_path / "server.log").read_bytes() == LINE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["core", "server.log"]


def test_without_room_for_the_end_it_is_emptied_all_the_same(tmp_path: Path) -> None:
    """A full /run is what it is for."""
    log = tmp_path / "a server/server.log"  # as newer drivers name them
    log.parent.mkdir()
    log.write_bytes(LINE * 9000)
    log.with_name("server.log.1").mkdir()  # it cannot be written
    bound_logs(tmp_path)
    assert log.stat().st_size == 0
