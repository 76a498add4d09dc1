# SPDX-License-Identifier: MPL-2.0
"""MPS daemons that hold no real lock, because they are no real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomad_nvidia_vgpu.sharing.mps import daemon


def _holder(path: Path) -> int | None:
    return int(path.read_text()) if path.exists() else None


@pytest.fixture(autouse=True)
def _locks_are_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a lock file say who holds it."""
    monkeypatch.setattr(daemon, "lock_holder", _holder)
