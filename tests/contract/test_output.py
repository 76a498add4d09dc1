# SPDX-License-Identifier: MPL-2.0
"""The program when its output is not read, cannot be written, or when Ctrl-C is pressed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

PROGRAM = [sys.executable, "-m", "nomad_nvidia_vgpu"]
PLAN = [*PROGRAM, "plan", "--simulate", "t4", "--vgpus", "4"]
LAUNCH = ["launch", "--simulate", "t4", "--vgpus", "4"]
TOP = [*PROGRAM, "top", "--simulate", "t4", "--vgpus", "4"]


def under_a_shell(redirection: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command whose output goes where a shell's redirection says."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *command],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    [
        PLAN,
        [*PLAN, "--json"],
        TOP,
        [*TOP, "--once", "--json"],
        [*PROGRAM, "doctor", "--agent-config", os.devnull],
        [*PROGRAM, "plan", "--help"],
        [*PROGRAM, "--help"],
    ],
    ids=lambda command: " ".join(command[3:]),
)
def test_a_reader_that_has_seen_enough_is_no_failure(command: list[str]) -> None:
    """`| head` ends the program without a word about it and with status 0."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        done = subprocess.run(
            command, stdout=output, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert "Broken pipe" not in done.stderr


def test_notes_that_nobody_reads_are_no_failure() -> None:
    """`2>&1 | head` neither, where it is the notes that cannot be written."""
    done = under_a_shell("2>&1 >/dev/null | true; exit ${PIPESTATUS[0]}", PLAN)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("command", [PLAN, [*PLAN, "--json"], [*PROGRAM, "--help"]])
def test_a_full_disk_is_one_sentence(command: list[str]) -> None:
    """What cannot be written is told once, with status 1."""
    done = under_a_shell(">/dev/full", command)
    said = "nvidia-vgpu: the output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_closed_output_is_one_sentence() -> None:
    """`>&-` is told before anything is done."""
    done = under_a_shell(">&-", PLAN)
    assert done.returncode == 1
    assert done.stderr.startswith("nvidia-vgpu: the output cannot be written: standard output is")
    assert done.stderr.count("\n") == 1


def test_closed_notes_are_not_missed() -> None:
    """`2>&-` leaves the tables."""
    done = under_a_shell("2>&-", PLAN)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Tesla T4" in done.stdout


INTERRUPTED = """
import signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.argv[1:] = ["plan", "--simulate", "t4", "--vgpus", "4"]
from nomad_nvidia_vgpu.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["click", "rich", "nomad_nvidia_vgpu.gpu.simulated"])
def test_ctrl_c_says_nothing_however_early(module: str) -> None:
    """While modules are being imported, too."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(module=module)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "")


@pytest.mark.parametrize(
    "command",
    [
        [*TOP, "--interval", "0.1"],
        [*TOP, "--interval", "0.1", "--json"],
        [*PROGRAM, *LAUNCH, "--watch", "--interval", "0.1"],
    ],
    ids=lambda command: " ".join(command[3:]),
)
def test_ctrl_c_is_how_one_leaves_what_runs_for_ever(command: list[str]) -> None:
    """No word and status 0, however it is in the midst of it."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        shown = 0
        while shown < 3:  # the first of launch's stats come before it watches
            line = process.stdout.readline()
            assert line, process.stderr.read()
            shown += bool(re.match(r"Stats|GPU, vGPUs|\{", line))
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert "Traceback" not in said
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_launch_that_is_ended_ends_its_plugin(number: signal.Signals) -> None:
    """A plugin left behind would keep the MPS daemons of the node from the agent's."""
    with subprocess.Popen(
        [*PROGRAM, *LAUNCH, "--watch", "--interval", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("Stats") for line in process.stdout)
        plugins = psutil.Process(process.pid).children()
        assert plugins
        process.send_signal(number)
        process.stdout.read()
    assert process.returncode == 128 + number
    assert psutil.wait_procs(plugins, timeout=60.0)[1] == []
