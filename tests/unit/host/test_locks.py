# SPDX-License-Identifier: MPL-2.0
"""Who holds a lock, seen from another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from nomad_nvidia_vgpu.host.locks import lock_holder

HOLD = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX)"


def test_the_holder_is_named_for_as_long_as_it_lives(tmp_path: Path) -> None:
    """The kernel ends the lock with the process, however that ends."""
    path = tmp_path / "lock"
    assert lock_holder(path) is None
    path.touch()
    assert lock_holder(path) is None
    with subprocess.Popen(
        [sys.executable, "-c", f"{HOLD}; print(flush=True); sys.stdin.read()", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert lock_holder(path) == holder.pid
        holder.kill()
    assert lock_holder(path) is None


def test_nothing_in_its_place_holds_us_up(tmp_path: Path) -> None:
    """A pipe without a reader is no lock that somebody holds."""
    os.mkfifo(tmp_path / "lock")
    assert lock_holder(tmp_path / "lock") is None
