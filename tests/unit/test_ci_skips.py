# SPDX-License-Identifier: MPL-2.0
"""What a skip means: a word to a person, a failure in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import conftest
import pytest

HERE = """
import pytest

@pytest.fixture
def tool():
    pytest.skip("no tool")

def test_that_needs_it(tool): ...
"""
MARKED = HERE.replace("def test_", '@pytest.mark.may_skip("some have none")\ndef test_')
BY_MARK = 'import pytest\n\n@pytest.mark.skipif(True, reason="no tool")\ndef test_it(): ...\n'


def outcome(directory: Path, test: str, ci: str) -> subprocess.CompletedProcess[str]:
    """Runs one test under our conftest."""
    (directory / "conftest.py").write_text(Path(conftest.__file__).read_text())
    (directory / "pytest.ini").write_text("[pytest]\nmarkers = may_skip\n")
    (directory / "test_it.py").write_text(test)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", directory],
        env={**os.environ, "CI": ci, "PYTHONPATH": str(Path(conftest.__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("test", "ci", "fails"),
    [
        (HERE, "true", True),
        (BY_MARK, "1", True),
        (HERE, "", False),
        (BY_MARK, "false", False),
        (MARKED, "true", False),
    ],
)
def test_a_skip_is_a_failure_in_ci(tmp_path: Path, test: str, ci: str, *, fails: bool) -> None:
    """Where a machine of CI can have what is missing; the reason is told either way."""
    done = outcome(tmp_path, test, ci)
    assert done.returncode == int(fails), done.stdout
    assert ("no tool; in CI a skip is a failure" in done.stdout) is fails
