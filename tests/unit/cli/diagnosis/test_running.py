# SPDX-License-Identifier: MPL-2.0
"""The agent and the plugin that run, by a /proc of the test's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.agent.config import AgentConfig, read_agent_config
from nomad_nvidia_vgpu.cli.diagnosis.running import (
    NOBODY,
    Running,
    RunningAgent,
    RunningPlugin,
    look_at_running,
)
from unit.cli.diagnosis.nodes import written

NOMAD, OURS = "/usr/bin/nomad", "/opt/nomad/plugins/nvidia-vgpu"
NODE, CONTAINER = "mnt:[4026531841]", "mnt:[4026532000]"
LIBRARY = "/usr/lib/libnvidia-ml.so.590.48.01"


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    """Gives what the agent of this node reads: a folder with one file."""
    written(tmp_path / "etc/nomad.d/a.hcl", "")
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    (tmp_path / "proc/self/ns/mnt").symlink_to(NODE)
    (tmp_path / "proc/self/root").symlink_to("/")
    return read_agent_config([tmp_path / "etc/nomad.d"])


def process(  # noqa: PLR0913  each has a default, and is named
    tmp_path: Path,
    pid: int,
    words: Sequence[str],
    *,
    parent: int = 1,
    uid: int = 0,
    environ: str = "",
    root: Path | str = "/",
    namespace: str = NODE,
) -> Path:
    """A process; its files are below what is given back."""
    place = tmp_path / "proc" / str(pid)
    written(place / "cmdline", "\0".join([*words, ""]))
    name = words[0].rpartition("/")[2][:15]
    written(place / "stat", f"{pid} ({name}) S {parent} {'0 ' * 17}77 0")
    written(place / "status", f"Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
    written(place / "environ", environ)
    (place / "ns").mkdir()
    (place / "ns/mnt").symlink_to(namespace)
    (place / "root").symlink_to(root)
    (place / "cwd").symlink_to(tmp_path / "etc")
    return place


def mapping(path: str) -> str:
    """A line of /proc/PID/maps."""
    return f"7f00-7f01 r-xp 00000000 08:01 42         {path}\n"


def test_the_agent_that_reads_these_files_is_found(tmp_path: Path, config: AgentConfig) -> None:
    """With its user, its paths, its unit, and what its options make of it."""
    folder = tmp_path / "etc/nomad.d"
    process(tmp_path, 5, ["/bin/bash"])
    process(tmp_path, 6, [NOMAD, "agent", "-config", "/somewhere/else"])
    process(tmp_path, 7, [NOMAD, "status", "-config", str(folder)])
    place = process(
        tmp_path,
        8,
        [NOMAD, "agent", "-dev", f"-config={folder}"],
        environ="TOKEN=s3cret\0PATH=/a:/b\0LD_LIBRARY_PATH=/c\0",
    )
    written(place / "cgroup", "0::/system.slice/nomad.service\n")
    written(tmp_path / "proc/uptime", "100.00 7.00\n")
    age_s = 100 - 77 / os.sysconf("SC_CLK_TCK")
    agent = RunningAgent(8, 0, True, "/a:/b", "/c", "/system.slice/nomad.service", age_s)
    assert agent.unit == "nomad.service"
    assert look_at_running(tmp_path / "proc", config) == Running(agent)


@pytest.mark.parametrize(
    "options", [["-config", "nomad.d"], ["--config=nomad.d/"], ["-config=nomad.d/a.hcl"]]
)
def test_however_the_files_were_named_it_is_they(
    tmp_path: Path, config: AgentConfig, options: list[str]
) -> None:
    """By a path from where it was started, or by the file in the folder."""
    process(tmp_path, 8, [NOMAD, "agent", *options], environ="A=b\0")
    found = look_at_running(tmp_path / "proc", config).agent
    assert found == RunningAgent(8, 0, False, os.defpath, "")


@pytest.mark.parametrize(("namespace", "root"), [(CONTAINER, "/"), (NODE, "/elsewhere")])
def test_an_agent_with_files_of_its_own_is_another_nodes(
    tmp_path: Path, config: AgentConfig, namespace: str, root: str
) -> None:
    """What a path leads to in a container is its root's to choose, even to a file of the node."""
    words = [NOMAD, "agent", f"-config={tmp_path}/etc/nomad.d"]
    process(tmp_path, 8, words, namespace=namespace, root=root)
    assert look_at_running(tmp_path / "proc", config) == NOBODY


def test_what_another_user_calls_an_agent_is_not_believed(
    tmp_path: Path, config: AgentConfig
) -> None:
    """That it runs as he is all that is known of it; nothing of it may lead root anywhere."""
    words = [NOMAD, "agent", "-dev", f"-config={tmp_path}/etc/nomad.d"]
    place = process(tmp_path, 8, words, uid=990, environ="PATH=/evil\0LD_LIBRARY_PATH=/evil\0")
    written(place / "cgroup", "0::/x;touch pwned;.service\n")
    written(process(tmp_path, 21, [OURS], parent=8) / "maps", mapping("/evil/libnvidia-ml.so"))
    found = look_at_running(tmp_path / "proc", config)
    assert found == Running(RunningAgent(8, 990, client=True))


def test_command_lines_of_other_programs_are_not_read(tmp_path: Path, config: AgentConfig) -> None:
    """One that is stuck in the driver would hold up who reads it."""
    place = process(tmp_path, 8, ["/usr/bin/python3", "train.py"])
    (place / "cmdline").unlink()
    os.mkfifo(place / "cmdline")
    process(tmp_path, 9, [NOMAD, "agent", f"-config={tmp_path}/etc/nomad.d"])
    found = look_at_running(tmp_path / "proc", config).agent
    assert found is not None
    assert found.pid == 9


def test_of_several_the_one_of_root_is_the_agent(tmp_path: Path, config: AgentConfig) -> None:
    """Any user can start a program of that name, with those options."""
    words = [NOMAD, "agent", f"-config={tmp_path}/etc/nomad.d"]
    process(tmp_path, 8, words, uid=1000)
    process(tmp_path, 9, words)
    found = look_at_running(tmp_path / "proc", config).agent
    assert found is not None
    assert found.pid == 9


@pytest.mark.parametrize(
    ("line", "unit"),
    [
        ("12:cpu:/x.service\n1:name=systemd:/system.slice/n.service\n", "n.service"),
        ("0::/system.slice/system-nomad.slice/nomad@a.service/sub\n", "nomad@a.service"),
        ("0::/user.slice/session-3.scope\n", None),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/tmux-1.scope\n", None),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/nomad.service\n", None),
    ],
)
def test_the_unit_is_read_from_both_kinds_of_cgroups(
    tmp_path: Path, config: AgentConfig, line: str, unit: str | None
) -> None:
    """An agent that a person started is none."""
    words = [NOMAD, "agent", f"-config={tmp_path}/etc/nomad.d"]
    written(process(tmp_path, 8, words) / "cgroup", line)
    found = look_at_running(tmp_path / "proc", config).agent
    assert found is not None
    assert found.unit == unit


def test_the_plugin_is_the_child_of_that_agent(tmp_path: Path, config: AgentConfig) -> None:
    """With the library that it has mapped, as the kernel knows it."""
    process(tmp_path, 8, [NOMAD, "agent", f"-config={tmp_path}/etc/nomad.d"])
    for pid, words, parent in (
        (20, [OURS], 1),
        (21, ["/usr/bin/python3", "-I", "-S", OURS], 8),
        (22, [NOMAD, "logmon"], 8),
    ):
        place = process(tmp_path, pid, words, parent=parent)
        lines = mapping("/usr/lib/libc.so.6") + "7f02-7f03 rw-p 0 00:00 0\n"
        written(place / "maps", lines + mapping(LIBRARY) * 2)
    found = look_at_running(tmp_path / "proc", config)
    assert found.plugin == RunningPlugin(21, LIBRARY)
    written(tmp_path / "proc/21/maps", mapping("/usr/lib/libc.so.6"))
    assert look_at_running(tmp_path / "proc", config).plugin == RunningPlugin(21, None)
    written(tmp_path / "proc/21/maps", mapping(f"{LIBRARY} (deleted)"))
    assert look_at_running(tmp_path / "proc", config).plugin == (21, f"{LIBRARY} (deleted)")


def test_what_this_user_may_not_read_is_not_known(tmp_path: Path, config: AgentConfig) -> None:
    """Nor what has ended meanwhile; nothing is raised."""
    place = process(tmp_path, 8, [NOMAD, "agent", f"-config={tmp_path}/etc/nomad.d"])
    for name in ("environ", "status"):
        (place / name).unlink()
    process(tmp_path, 21, [OURS], parent=8)
    (tmp_path / "proc/30").mkdir()
    found = look_at_running(tmp_path / "proc", config)
    assert found == Running(RunningAgent(8, None, client=False))
    assert look_at_running(tmp_path / "no", config) == NOBODY
    assert look_at_running(tmp_path / "proc", None) == NOBODY


def test_files_without_end_are_read_in_part(tmp_path: Path, config: AgentConfig) -> None:
    """A command line and mappings may be of any length."""
    words = [NOMAD, "agent", f"-config={tmp_path}/etc/nomad.d"]
    os.truncate(process(tmp_path, 8, words) / "cmdline", 1 << 40)
    place = process(tmp_path, 21, [OURS], parent=8)
    os.truncate(written(place / "maps", mapping(LIBRARY)), 1 << 40)
    assert look_at_running(tmp_path / "proc", config).plugin == RunningPlugin(21, LIBRARY)
