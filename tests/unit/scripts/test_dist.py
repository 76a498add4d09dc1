# SPDX-License-Identifier: MPL-2.0
"""SHA256SUMS; what is built is tested in `contract`."""

from __future__ import annotations

import subprocess
from pathlib import Path

from scripts.dist import write_sums


def test_the_sums_are_checked_by_the_usual_program(tmp_path: Path) -> None:
    """As docs/packaging.md has it: for those files that are there; a changed one is told."""
    for name in ("a", "b", "absent"):
        (tmp_path / name).write_text(name)
    write_sums(tmp_path, ["a", "absent", "b"])
    (tmp_path / "absent").unlink()
    command = ["sha256sum", "--check", "--ignore-missing", "SHA256SUMS"]
    assert subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout == (
        b"a: OK\nb: OK\n"
    )
    (tmp_path / "b").write_text("c")
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"a: OK\nb: FAILED\n")
