# SPDX-License-Identifier: MPL-2.0
"""Doctor's check of NVIDIA's two MPS programs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.check_mps import tools
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level
from nomad_nvidia_vgpu.cli.diagnosis.running import Running
from nomad_nvidia_vgpu.sharing.mps import control as mps_control
from unit.cli.diagnosis.nodes import agent, assert_one, driver, facts, node, said, written
from unit.example_gpus import gpu

CONTROL, SERVER = "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"


def known(
    tmp_path: Path, *, sharing: str = "mps", there: bool = True, path: str | None = "/usr/bin"
) -> Facts:
    """A node with one GPU shared so, the tool in /usr/bin or not, and an agent with this PATH."""
    return facts(
        tmp_path,
        options=f'vgpus = 4\nsharing = "{sharing}"',
        look=driver(gpu("GPU-a")),
        on=node(tmp_path, (CONTROL,) if there else ()),
        running=Running(agent(path=path)),
    )


def program(path: Path) -> Path:
    """A program that does nothing."""
    written(path, "#!/bin/sh\n").chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gives the place of what else would be in /usr/bin and /usr/sbin, for tool and server."""
    place = tmp_path / "usual"
    monkeypatch.setattr(mps_control, "_USUAL_PATH", str(place))
    monkeypatch.setattr(mps_control, "_SERVER_PATH", str(place))
    return place


def test_tools_are_named(tmp_path: Path) -> None:
    """Where they are, as far as one knows while the agent's PATH is not seen."""
    assert_one(tools, known(tmp_path, path=None), Level.OK, f"/usr/bin/{CONTROL}")


def test_missing_tools_are_an_error_where_they_are_needed(tmp_path: Path) -> None:
    """And nothing where GPUs are shared by time-slicing."""
    assert_one(tools, known(tmp_path, there=False), Level.ERROR, "install")
    assert_one(tools, known(tmp_path, there=False, sharing="time-slicing"), Level.OK)


def test_the_agents_path_decides_where_the_tools_are(tmp_path: Path) -> None:
    """A person's own leads to more, which is no help to the plugin."""
    at = known(tmp_path, path=f"{tmp_path}/bin")
    words = (f"is /usr/bin/{CONTROL}, which", "(pid 40", "| add /usr/bin to PATH")
    assert_one(tools, at, Level.ERROR, *words)
    tool = program(tmp_path / "bin" / CONTROL)
    assert_one(tools, at, Level.OK, str(tool))


def test_a_tool_of_the_agents_wins_over_the_shells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are there, and only one is what the plugin runs."""
    program(tmp_path / "shell" / CONTROL)
    monkeypatch.setenv("PATH", f"{tmp_path}/shell")
    tool = program(tmp_path / "agent" / CONTROL)
    assert_one(tools, known(tmp_path, path=f"{tmp_path}/agent"), Level.OK, f"{CONTROL} is {tool}")


def looked(tmp_path: Path, sharing: str = "mps") -> list[tuple[Level, str]]:
    """What is said where the tool is in the agent's PATH, and the server is looked for on the disk."""
    tool = program(tmp_path / "tool" / CONTROL)
    found = known(tmp_path, sharing=sharing, path=f"{tool.parent}:{tmp_path}/agent")
    on = dataclasses.replace(found.node, mps_server=mps_control.located_server)
    return said(tools, dataclasses.replace(found, node=on))


@pytest.mark.parametrize("folder", ["tool", "agent", "usual"])
def test_a_server_where_a_daemon_looks_is_enough(tmp_path: Path, folder: str) -> None:
    """Beside its tool, in the agent's PATH, and where drivers put it."""
    program(tmp_path / folder / SERVER)
    assert [level for level, _ in looked(tmp_path)] == [Level.OK]


@pytest.mark.parametrize("folder", [None, "shell"])
def test_a_server_that_no_daemon_finds_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str | None
) -> None:
    """Also when the shell would find it: the daemon has another PATH."""
    if folder is not None:
        program(tmp_path / folder / SERVER)
        monkeypatch.setenv("PATH", f"{tmp_path}/{folder}")
    (_, words), (level, missing) = looked(tmp_path)
    assert words.startswith(f"{CONTROL} is {tmp_path}/tool/{CONTROL}")
    assert level is Level.ERROR
    assert missing.startswith(f"no {SERVER} is beside {tmp_path}/tool/{CONTROL}, in the agent's")
    assert missing.endswith(f"| install the {SERVER} of the same driver")


def test_a_server_that_is_not_needed_may_be_missing(tmp_path: Path) -> None:
    """Where GPUs are shared by time-slicing."""
    assert [level for level, _ in looked(tmp_path, "time-slicing")] == [Level.OK]
