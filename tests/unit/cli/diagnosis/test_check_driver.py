# SPDX-License-Identifier: MPL-2.0
"""The checks of the driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.check_driver import library, module
from nomad_nvidia_vgpu.cli.diagnosis.check_gpus import division
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level
from nomad_nvidia_vgpu.cli.diagnosis.running import Running, RunningPlugin
from nomad_nvidia_vgpu.errors import Problem
from unit.cli.diagnosis.nodes import agent, assert_one, driver, facts, levels, said, written
from unit.example_gpus import gpu

FILE = "/usr/lib/libnvidia-ml.so.590.48.01"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  590.48.01  Fri Jan  2 2026\nGCC 13.3.0\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  590.48.01  Release Build\n"


def test_the_file_that_was_loaded_is_named(tmp_path: Path) -> None:
    """A node may have several, in a container or from CUDA."""
    known = facts(tmp_path, look=driver(gpu(), library=FILE, version="590.48.01"))
    assert_one(library, known, Level.OK, FILE, "driver 590.48.01")


OTHER = "/opt/cuda/stubs/libnvidia-ml.so.1"


def test_the_library_that_the_plugin_has_loaded_is_named(tmp_path: Path) -> None:
    """By the process that runs: what this command finds is in its own environment."""
    look = driver(gpu(), library=FILE)
    running = Running(agent(), RunningPlugin(41, FILE))
    found = said(library, facts(tmp_path, look=look, running=running))
    assert [level for level, _ in found] == [Level.OK, Level.OK]
    assert f"the plugin that runs (pid 41) has loaded {FILE}" in found[1][1]


@pytest.mark.parametrize(
    ("loaded", "own", "words"),
    [
        (OTHER, FILE, f"has loaded {OTHER}, and this command {FILE}"),
        (None, FILE, f"has loaded no libnvidia-ml.so.1, and this command {FILE}"),
        (FILE, None, f"has loaded {FILE}, and this command none"),
    ],
)
def test_another_library_in_the_plugin_is_a_warning(
    tmp_path: Path, loaded: str | None, own: str | None, words: str
) -> None:
    """Whatever this command found good may be bad there."""
    running = Running(agent(), RunningPlugin(41, loaded))
    look = driver(gpu(), library=own)
    found = said(library, facts(tmp_path, look=look, running=running))
    assert [level for level, _ in found] == [Level.OK, Level.WARNING]
    assert words in found[1][1]


def test_a_plugin_that_has_no_use_for_the_library_need_not_load_it(tmp_path: Path) -> None:
    """It is switched off."""
    running = Running(agent(), RunningPlugin(41, None))
    look = driver(gpu(), library=FILE)
    known = facts(tmp_path, look=look, options="enabled = false", running=running)
    assert levels(library, known) == [Level.OK]


def test_the_agents_way_to_libraries_counts_where_no_plugin_runs(tmp_path: Path) -> None:
    """What it is is shown; the remedy is no command with a path that the process has chosen."""
    look = driver(gpu(), library=FILE)
    known = facts(tmp_path, look=look, running=Running(agent(libraries="/opt/a b")))
    found = said(library, known)
    assert [level for level, _ in found] == [Level.OK, Level.WARNING]
    assert "has LD_LIBRARY_PATH='/opt/a b'" in found[1][1]
    assert "| look at LD_LIBRARY_PATH of the agent's unit" in found[1][1]
    for libraries in ("", None):
        running = Running(agent(libraries=libraries))
        assert levels(library, facts(tmp_path, look=look, running=running)) == [Level.OK]


def test_a_driver_that_cannot_be_used_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    """With the file, if one was loaded: a stub of CUDA is one."""
    look = driver(problem=Problem("NVML says 'x' (9)", "load the kernel module"), library=FILE)
    assert_one(
        library, facts(tmp_path, look=look), Level.ERROR, "'x' (9)", FILE, "| load the kernel"
    )


def test_simulated_gpus_need_no_driver(tmp_path: Path) -> None:
    """That they are none is told once, by what is divided."""
    known = facts(tmp_path, look=driver(gpu(simulated=True), simulated=True))
    assert_one(division, known, Level.WARNING, "simulated")
    assert_one(library, known, Level.OK)
    assert_one(module, known, Level.OK)


@pytest.mark.parametrize("text", [CLOSED, OPEN])
def test_module_and_library_are_of_one_version(tmp_path: Path, text: str) -> None:
    """NVIDIA's module and its open one."""
    written(tmp_path / "proc/driver/nvidia/version", text)
    assert_one(module, facts(tmp_path, look=driver(library=FILE)), Level.OK, "590.48.01")


def test_a_driver_that_was_upgraded_in_place_is_an_error(tmp_path: Path) -> None:
    """The library says nothing then but the number of its file."""
    written(tmp_path / "proc/driver/nvidia/version", CLOSED.replace("590.48.01", "580.95.05"))
    look = driver(library=FILE, problem=Problem("NVML says 'mismatch' (18)", "reload it"))
    assert_one(module, facts(tmp_path, look=look), Level.ERROR, "580.95.05", "590.48.01", "reload")


def test_a_module_that_is_not_loaded_is_an_error(tmp_path: Path) -> None:
    """Unless the driver works without telling, as in some containers."""
    look = driver(library=FILE, problem=Problem("x", "y"))
    assert_one(module, facts(tmp_path, look=look), Level.ERROR, "modprobe nvidia")
    assert_one(module, facts(tmp_path, look=driver(gpu())), Level.OK)


def test_without_a_driver_its_module_is_not_asked_for(tmp_path: Path) -> None:
    """To load it would be no remedy; that the driver is missing is said of the library."""
    assert levels(module, facts(tmp_path, look=driver(problem=Problem("x", "y")))) == []


def test_an_odd_version_file_is_a_warning(tmp_path: Path) -> None:
    """Nothing is guessed."""
    written(tmp_path / "proc/driver/nvidia/version", "hello\n")
    assert_one(module, facts(tmp_path, look=driver(gpu())), Level.WARNING)
