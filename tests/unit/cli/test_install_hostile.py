# SPDX-License-Identifier: MPL-2.0
"""Nodes on which nothing is as it should be: one clear sentence each, and nothing half done."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.agent.config import read_agent_config
from nomad_nvidia_vgpu.cli.main import run
from unit.cli.installing import HEAD, InstallNode

Capture = pytest.CaptureFixture[str]
NOT_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be read-only otherwise")
SIZE = ("--vgpus", "4")


def refused(capture: Capture, status: int) -> str:
    """Gives the one sentence of a command that refused."""
    assert status == 1
    (sentence,) = capture.readouterr().err.splitlines()
    return sentence.removeprefix("nvidia-vgpu: ")


def make_missing(node: InstallNode) -> str:
    """Lets the folder for plugins be none: as by default, below the data."""
    (node.config / "nomad.hcl").write_text(f'data_dir = "{node.plugins}/data"\n')
    return f"plugin_dir {node.plugins}/data/plugins is not there: mkdir -p"


def make_file(node: InstallNode) -> str:
    """Puts a file where the folder should be."""
    node.plugins.rmdir()
    node.plugins.write_text("")
    return f"plugin_dir {node.plugins} is not a folder: move it away"


def make_dangling(node: InstallNode) -> str:
    """Lets the folder be a link that leads nowhere."""
    node.plugins.rmdir()
    node.plugins.symlink_to("nowhere")
    return f"plugin_dir {node.plugins} is not a folder: move it away"


def make_folder_in_our_place(node: InstallNode) -> str:
    """Puts a folder where the program should be."""
    node.entry.mkdir()
    return f"{node.entry} is another program than this plugin: move it away"


def make_notes_in_our_place(node: InstallNode) -> str:
    """Puts somebody's text there."""
    node.entry.write_text("mine")
    return f"{node.entry} is another program than this plugin: move it away"


def make_dangling_block(node: InstallNode) -> str:
    """Lets the file for the block be a link that leads nowhere."""
    node.block.symlink_to("nowhere")
    return f'{node.block} has no plugin "nvidia-vgpu" block: move it away'


@pytest.mark.parametrize(
    "make",
    [
        make_missing,
        make_file,
        make_dangling,
        make_folder_in_our_place,
        make_notes_in_our_place,
        make_dangling_block,
    ],
)
def test_what_is_in_the_way_is_said(
    node: InstallNode, capsys: Capture, make: Callable[[InstallNode], str]
) -> None:
    """With what to do about it."""
    expected = make(node)
    before = sorted(node.config.iterdir())
    assert refused(capsys, node.run("install", *SIZE)).startswith(expected)
    assert sorted(node.config.iterdir()) == before


@pytest.mark.parametrize("closed", ["config", "plugins"])
@pytest.mark.parametrize("uid", [0, 1000])
def test_a_folder_that_cannot_be_written_to_is_left_alone(
    node: InstallNode,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    closed: str,
    uid: int,
) -> None:
    """Neither file is put, if one of them cannot; and neither is taken away."""
    folder = node.config if closed == "config" else node.plugins
    why = "cannot be written to: run this" if uid else "is on a read-only file system"
    access = os.access

    def closed_access(path: str | Path, mode: int) -> bool:
        return Path(path) != folder and access(path, mode)

    monkeypatch.setattr(os, "access", closed_access)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert why in refused(capsys, node.run("install", *SIZE))
    node.assert_untouched()
    monkeypatch.setattr(os, "access", access)
    assert node.run("install", *SIZE) == 0
    monkeypatch.setattr(os, "access", closed_access)
    capsys.readouterr()
    assert why in refused(capsys, node.run("uninstall"))
    assert node.entry.exists()
    assert node.block.exists()


def test_a_block_whose_program_cannot_follow_is_taken_back(
    node: InstallNode, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step fails: an agent with the block alone would not start."""
    rename = os.rename

    def fail(source: str, target: str, **folders: int) -> None:
        if target == node.entry.name:
            raise OSError(5, "Input/output error")
        rename(source, target, **folders)

    monkeypatch.setattr(os, "rename", fail)
    assert "(Input/output error): fix that" in refused(capsys, node.run("install", *SIZE))
    node.assert_untouched()


def test_a_killed_run_is_cleared_up_by_the_next(
    node: InstallNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it leaves Nomad neither starts nor reads."""
    if (child := os.fork()) == 0:
        monkeypatch.setattr(shutil, "copyfileobj", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        try:
            node.run("install", *SIZE)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert all(path.is_dir() for path in node.plugins.iterdir())
    assert [file.name for file in read_agent_config([node.config]).files] == ["nomad.hcl"]
    assert node.run("install", *SIZE) == 0
    assert [path.name for path in node.plugins.iterdir()] == ["nvidia-vgpu"]
    assert sorted(path.name for path in node.config.iterdir()) == ["nomad.hcl", "nvidia-vgpu.hcl"]


def test_ctrl_c_leaves_nothing(node: InstallNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator who thinks better of it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfileobj", interrupt)
    assert node.run("install", *SIZE) == 130
    node.assert_untouched()


def test_the_last_plugin_dir_counts(node: InstallNode, tmp_path: Path) -> None:
    """As in Nomad, over files of both forms; behind a link too."""
    (tmp_path / "link").symlink_to(node.plugins)
    (node.config / "a.hcl").write_text('plugin_dir = "/nowhere"')
    (node.config / "z.json").write_text(json.dumps({"plugin_dir": str(tmp_path / "link")}))
    assert node.run("install", *SIZE) == 0
    assert node.entry.exists()


def test_a_file_that_nomad_reads_is_read(node: InstallNode, capsys: Capture) -> None:
    """A name that looks like an editor's is one, and only then."""
    for name in ("#x.hcl", ".hcl"):
        (node.config / name).write_text('plugin "vgpu" {}')
        assert name in refused(capsys, node.run("install", *SIZE))
        (node.config / name).rename(node.config / ".#x.hcl")
    assert node.run("install", *SIZE) == 0


def test_one_file_of_json_gets_json(node: InstallNode, capsys: Capture) -> None:
    """What is printed can be put into it as it is."""
    file = node.config.parent / "agent.json"
    file.write_text(json.dumps({"plugin_dir": str(node.plugins)}))
    assert run(["install", *SIZE, "--sharing", "mps", "--agent-config", str(file)]) == 1
    _, _, printed = capsys.readouterr().out.partition("\n")
    document = json.loads(printed)
    file.write_text(json.dumps({**json.loads(file.read_text()), **document}))
    assert run(["install", "--agent-config", str(file)]) == 0
    assert document["plugin"]["nvidia-vgpu"]["config"] == {"vgpus": 4, "sharing": "mps"}


@NOT_ROOT
def test_a_strangers_file_in_our_place_is_replaced(node: InstallNode) -> None:
    """An older version that somebody else put there; ours belongs to who installs it."""
    node.entry.write_bytes(HEAD)
    node.entry.chmod(0o755)
    os.chown(node.entry, 12345, 12345)
    assert node.run("install", *SIZE) == 0
    assert node.entry.stat().st_uid == 0
    assert node.entry.stat().st_mode & 0o7777 == 0o755


def test_a_configuration_that_only_root_reads(
    node: InstallNode, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says who can."""

    def closed(_self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", closed)
    said = refused(capsys, node.run("install", *SIZE))
    assert said == f"{node.config} cannot be read: Permission denied: run this command as root"


def test_every_option_can_be_installed(node: InstallNode) -> None:
    """As `plan` and `launch` take it; and uninstalled again, for it is still ours."""
    flags = ("--vgpu-memory", "10GiB", "--sharing", "mps", "--gpu-vgpus", "*A100*=4")
    assert node.run("install", *flags, "--health-fatal-xids", "43") == 0
    ours = read_agent_config([node.config]).ours
    assert ours is not None
    assert ours.options == {
        "vgpu_memory": "10GiB",
        "sharing": "mps",
        "gpu": {"*A100*": {"vgpus": 4}},
        "health": {"fatal_xids": [43]},
    }
    assert node.run("uninstall") == 0
    node.assert_untouched()


def test_a_configuration_that_others_can_change_is_refused(
    node: InstallNode, capsys: Capture
) -> None:
    """Who can put a file there decides what the agent runs; nothing is taken out of it either."""
    node.config.chmod(0o777)
    assert "can be written to by others" in refused(capsys, node.run("install", *SIZE))
    node.assert_untouched()
    node.config.chmod(0o755)
    assert node.run("install", *SIZE) == 0
    node.config.chmod(0o777)
    capsys.readouterr()
    assert "can be written to by others" in refused(capsys, node.run("uninstall"))
    assert node.block.exists()
    assert node.entry.exists()
