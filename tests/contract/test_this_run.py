# SPDX-License-Identifier: MPL-2.0
"""A test run leaves nothing running: neither at its end, nor when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import conftest
import psutil
import pytest

from .mps_machine import eventually

STARTS = """
import subprocess, sys

def test_it(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    process = subprocess.Popen({arguments}, start_new_session=True)
    open({told!r}, "w").write(f"{{process.pid}}\\n")
    {then}
"""
FORGOTTEN = "command, env={'PATH': '/bin'}, cwd=tmp_path"
"""A daemon: only its folder tells whose it is."""
MARKED = "command, cwd='/'"


def run(folder: Path, arguments: str, then: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    """A test run that has started a process, and that process."""
    told = folder / "told"
    (folder / "conftest.py").write_text(Path(conftest.__file__).read_text())
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = may_skip\n")
    (folder / "test_it.py").write_text(
        STARTS.format(arguments=arguments, told=str(told), then=then)
    )
    # With its folders in ours: of those that it makes by itself, pytest keeps three.
    pytest_run = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            f"--basetemp={folder}/t",
            folder,
        ],
        env={**os.environ, "PYTHONPATH": str(Path(conftest.__file__).parent)},
        stdout=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: told.exists() and told.read_text().endswith("\n"))
    return pytest_run, psutil.Process(int(told.read_text()))


@pytest.mark.parametrize("arguments", [FORGOTTEN, MARKED], ids=["by its folder", "by its mark"])
def test_what_a_killed_run_has_started_ends(tmp_path: Path, arguments: str) -> None:
    """SIGKILL runs no fixture to its end."""
    pytest_run, left = run(tmp_path, arguments, "process.wait()")
    pytest_run.send_signal(signal.SIGKILL)
    pytest_run.communicate()
    eventually(lambda: not left.is_running())


def test_to_leave_something_running_is_an_error(tmp_path: Path) -> None:
    """It is named, and ended."""
    pytest_run, left = run(tmp_path, FORGOTTEN, "process.returncode = 0")
    said, _ = pytest_run.communicate()
    assert pytest_run.returncode == 1
    assert "the tests have left running: " in said
    assert "time.sleep(600)" in said
    eventually(lambda: not left.is_running())
