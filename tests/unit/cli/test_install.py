# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu install` and `uninstall`, on folders of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli import install
from nomad_nvidia_vgpu.cli.agent.plugin_block import block_text
from nomad_nvidia_vgpu.cli.install import UNPACKED
from nomad_nvidia_vgpu.cli.main import run
from nomad_nvidia_vgpu.config.options import MpsConfig, PluginConfig
from scripts.onefile import __main__ as start
from scripts.onefile.build import archive
from unit.cli.installing import HEAD, InstallNode


def test_it_puts_the_entry_and_the_block(
    node: InstallNode, capsys: pytest.CaptureFixture[str]
) -> None:
    """An executable copy under the right name, a file of its own, and what to restart."""
    assert node.run("install", "--vgpus", "4") == 0
    assert node.entry.read_bytes() == node.program.read_bytes()
    assert os.access(node.entry, os.X_OK)
    assert not node.entry.is_symlink()
    assert [path.name for path in node.plugins.iterdir()] == ["nvidia-vgpu"]
    assert "vgpus = 4" in (node.config / "nvidia-vgpu.hcl").read_text()
    assert "systemctl restart nomad" in capsys.readouterr().err


def test_a_folders_name_does_not_speak_to_the_terminal(
    node: InstallNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever it holds, each step is one line."""
    odd = tmp_path / "odd\n\x1b[31m"
    odd.mkdir()
    (node.config / "nomad.hcl").write_text("")
    assert node.run("install", "--vgpus", "4", "--plugin-dir", str(odd)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


def test_the_block_does_not_depend_on_the_locale(node: InstallNode) -> None:
    """Nomad reads UTF-8; so does who takes the block away again, in whatever shell."""
    program = "import sys; from nomad_nvidia_vgpu.cli.main import run; sys.exit(run(sys.argv[1:]))"
    assert node.run("install", "--vgpus", "4", "--ignored-gpu-ids", "größer") == 0
    assert "größer".encode() in node.block.read_bytes()
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "0"}
    environment["PYTHONCOERCECLOCALE"] = "0"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            "uninstall",
            "--dry-run",
            "--agent-config",
            str(node.config),
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("remove the plugin")) == (0, 0)
    assert f"would remove {node.block}" in done.stdout


def test_a_second_time_it_replaces_the_file_and_leaves_the_block(node: InstallNode) -> None:
    """An upgrade; a plugin that runs keeps the file that it was started from."""
    assert node.run("install", "--vgpus", "4") == 0
    with node.entry.open("rb") as running:
        node.program.write_bytes(archive({"__main__.py": b"new"}, prefix=HEAD))
        assert node.run("install") == 0
        assert running.read() != node.entry.read_bytes()
    assert node.entry.read_bytes() == node.program.read_bytes()


@pytest.mark.parametrize("single_file", [True, False])
def test_the_same_again_is_nothing_to_do(
    node: InstallNode,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    single_file: bool,
) -> None:
    """Neither a copy nor a restart for nothing; what differs in its mode alone is put again."""
    if not single_file:
        script = node.program.with_name("nvidia-vgpu")
        script.write_text("#!/usr/bin/python3\nimport nomad_nvidia_vgpu\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "argv", [str(script)])
    assert node.run("install", "--vgpus", "4") == 0
    before = node.entry.lstat().st_ino
    capsys.readouterr()
    for flags in ([], ["--dry-run"]):
        assert node.run("install", *flags) == 0
        assert capsys.readouterr() == (
            "",
            f"{node.entry} is this very program\nnothing to do: the plugin block is there too\n",
        )
        assert node.entry.lstat().st_ino == before
    if single_file:
        node.entry.chmod(0o777)
        assert node.run("install") == 0
        assert node.entry.stat().st_mode & 0o777 == 0o755
        assert "restart the agent" in capsys.readouterr().err


def test_what_flags_ask_of_an_existing_block_is_not_done(
    node: InstallNode, capsys: pytest.CaptureFixture[str]
) -> None:
    """The block stays, and the exit status says it; a script would think it done."""
    assert node.run("install", "--vgpus", "2") == 0
    before = node.block.read_text()
    capsys.readouterr()
    assert node.run("install", "--vgpus", "3") == 1
    said = capsys.readouterr().err
    assert "vgpus is 2 in it, and 3 was asked for: edit that file\nthen restart the agent" in said
    assert "nothing to do" not in said
    assert node.block.read_text() == before
    assert node.run("install", "--vgpus", "2") == 0


def test_a_dry_run_does_nothing(node: InstallNode, capsys: pytest.CaptureFixture[str]) -> None:
    """It says each step."""
    assert node.run("install", "--vgpus", "4", "--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"would write {node.config}/nvidia-vgpu.hcl",
        f"would copy {node.program} to {node.entry}",
        *block_text({"vgpus": 4}).splitlines(),
    ]
    assert list(node.plugins.iterdir()) == []
    assert [path.name for path in node.config.iterdir()] == ["nomad.hcl"]


def test_a_console_script_is_linked_to(node: InstallNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs the environment that it stands in."""
    script = node.program.with_name("nvidia-vgpu")
    script.write_text("#!/usr/bin/python3\nimport nomad_nvidia_vgpu\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert node.run("install", "--vgpus", "4") == 0
    assert node.entry.readlink() == script


def test_what_nomad_cannot_start_is_not_installed(
    node: InstallNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m nomad_nvidia_vgpu` is no file."""
    monkeypatch.setattr(sys, "argv", ["/x/nomad_nvidia_vgpu/__main__.py"])
    assert node.run("install", "--vgpus", "4") == 1
    assert "run the program nvidia-vgpu itself" in capsys.readouterr().err
    assert not node.entry.exists()


def test_where_one_file_is_all_the_block_is_shown(
    node: InstallNode, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file itself is the operator's."""
    file = node.config / "nomad.hcl"
    before = file.read_text()
    assert (
        run(["install", "--vgpus", "4", "--agent-config", str(file)]) == 1
    )  # the rest is his to do
    assert 'plugin "nvidia-vgpu" {' in capsys.readouterr().out
    assert file.read_text() == before
    assert node.entry.exists()


def test_every_problem_is_a_line_and_nothing_is_done(
    node: InstallNode, capsys: pytest.CaptureFixture[str]
) -> None:
    """The operator fixes all and runs it once more."""
    (node.plugins / "gone").symlink_to("nowhere")
    (node.config / "z.hcl").write_text('plugin "nvidia_vgpu" {}')
    assert node.run("install") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("nvidia-vgpu: ") for line in lines)
    assert not node.entry.exists()


def test_a_label_is_a_name_and_no_path(
    node: InstallNode, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a block is called decides where nothing goes, and speaks to no terminal."""
    label = "../../vgpu[red]\x1b[31m\u202e"
    (node.config / "z.json").write_text(json.dumps({"plugin": {label: {"config": {}}}}))
    assert node.run("install", "--vgpus", "4") == 1
    said = capsys.readouterr().err
    assert r'plugin "../../vgpu[red]\x1b[31m\u202e" block' in said
    assert all(line.isprintable() for line in said.splitlines())
    assert list(node.plugins.iterdir()) == []


@pytest.mark.parametrize("there", [True, False])
def test_links_that_lie_ready_are_not_followed(node: InstallNode, *, there: bool) -> None:
    """Neither where the entry belongs, nor where the block does."""
    victims = [node.program.with_name(name) for name in ("victim", "other")]
    if there:
        for victim in victims:
            victim.write_bytes(HEAD)
    node.entry.symlink_to(victims[0])
    (node.config / "nvidia-vgpu.hcl").symlink_to(victims[1])
    assert node.run("install", "--vgpus", "4") == 1
    assert [victim.exists() for victim in victims] == [there, there]
    (node.config / "nvidia-vgpu.hcl").unlink()
    assert node.run("install", "--vgpus", "4") == 0
    assert not node.entry.is_symlink()
    assert not there or victims[0].read_bytes() == HEAD


def test_a_folder_can_be_named_where_the_files_name_none(
    node: InstallNode, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said that the agent must be told too, else it never looks there."""
    (node.config / "nomad.hcl").write_text("")
    assert node.run("install", "--vgpus", "4", "--plugin-dir", str(node.plugins)) == 0
    assert node.entry.exists()
    said = f'still to do: set plugin_dir = "{node.plugins}" in {node.config}, where neither'
    assert said in capsys.readouterr().err
    assert node.run("install", "--vgpus", "4", "--plugin-dir", "other") == 2


def test_another_folder_than_the_agents_is_told(
    node: InstallNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its command line may name that; its own may be named, behind a link too."""
    other, link = tmp_path / "other", tmp_path / "link"
    other.mkdir()
    link.symlink_to(node.plugins)
    assert node.run("install", "--vgpus", "4", "--plugin-dir", str(other)) == 0
    assert (other / "nvidia-vgpu").exists()
    assert (
        f'still to do: set plugin_dir = "{other}" in {node.config}, by which the agent looks into'
        f" {node.plugins}, unless it is started with -plugin-dir={other}"
    ) in capsys.readouterr().err
    assert node.run("install", "--vgpus", "4", "--plugin-dir", str(link)) == 0
    assert "still to do" not in capsys.readouterr().err


def test_uninstall_looks_where_it_is_told(node: InstallNode, tmp_path: Path) -> None:
    """An entry may be left in a folder that was the agent's once."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "nvidia-vgpu").write_bytes(HEAD)
    (other / "nvidia-vgpu").chmod(0o755)
    assert node.run("uninstall", "--plugin-dir", str(other)) == 0
    assert list(other.iterdir()) == []


def test_uninstall_takes_away_what_install_put(
    node: InstallNode, capsys: pytest.CaptureFixture[str]
) -> None:
    """The entry and our own file; the rest of the configuration stays."""
    assert node.run("install", "--vgpus", "4") == 0
    assert node.run("uninstall", "--dry-run") == 0
    assert node.entry.exists()
    capsys.readouterr()
    assert node.run("uninstall") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"done: remove {node.entry}",
        f"done: remove {node.config}/nvidia-vgpu.hcl",
    ]
    assert not node.entry.exists()
    assert [path.name for path in node.config.iterdir()] == ["nomad.hcl"]
    capsys.readouterr()
    assert node.run("uninstall") == 0
    said = capsys.readouterr().err
    assert "nothing to do: this plugin is not installed here" in said
    assert "restart the agent" not in said.split("once the agent is restarted")[0]


def test_uninstall_leaves_what_is_not_ours(
    node: InstallNode, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another's program of that name, and a block that a person wrote: it says so."""
    node.entry.write_text("#!/bin/sh\n")
    node.entry.chmod(0o755)
    (node.config / "mine.hcl").write_text('plugin "nvidia-vgpu" {\n config {\n vgpus = 4\n }\n}\n')
    assert node.run("uninstall") == 0
    said = capsys.readouterr().err
    assert f"{node.entry} is not this plugin, and stays" in said
    assert f'still to do: remove the plugin "nvidia-vgpu" block from {node.config}/mine.hcl' in said
    assert node.entry.exists()


@pytest.mark.parametrize("installed", [True, False])
def test_uninstall_names_copies_under_other_names(
    node: InstallNode, capsys: pytest.CaptureFixture[str], *, installed: bool
) -> None:
    """Nomad up to 1.9 would start them; they stay, for somebody may want one back."""
    if installed:
        assert node.run("install", "--vgpus", "4") == 0
    copy = node.plugins / "nvidia-vgpu.bak"
    copy.write_bytes(HEAD)
    copy.chmod(0o755)
    capsys.readouterr()
    assert node.run("uninstall") == 0
    said = capsys.readouterr().err
    assert f"still to do: remove {copy}, which is this plugin too\nthen restart the agent" in said
    assert "nothing to do" not in said
    assert list(node.plugins.iterdir()) == [copy]


@pytest.mark.parametrize("slip", ["", "vgpuss = 3\n"], ids=["in order", "with a slip elsewhere"])
def test_uninstall_says_what_of_mps_is_left(
    node: InstallNode, capsys: pytest.CaptureFixture[str], slip: str
) -> None:
    """Daemons and compute modes outlive the plugin, for tasks do too."""
    with tempfile.TemporaryDirectory(prefix="v", dir="/tmp") as root:  # it must be short
        Path(root, "GPU-1").mkdir()
        options = f'vgpus = 4\n {slip}mps {{\n root = "{root}"\n }}'
        block = f'plugin "nvidia-vgpu" {{\n config {{\n {options}\n }}\n}}\n'
        (node.config / "mine.hcl").write_text(block)
        assert node.run("uninstall") == 0
    said = capsys.readouterr().err
    assert f"MPS daemons and compute modes may be left ({root})" in said
    assert f"run nvidia-vgpu release --mps-root {root}\n" in said


def test_where_mps_is_by_default_needs_not_be_said(
    node: InstallNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`release` looks there by itself."""
    usual = PluginConfig(mps=MpsConfig(root=str(tmp_path)))
    monkeypatch.setattr(install, "PluginConfig", lambda: usual)
    monkeypatch.setattr(install, "checked_config", lambda _given: usual)
    assert node.run("uninstall") == 0
    assert "stopped, run nvidia-vgpu release\n" in capsys.readouterr().err


def test_a_write_that_fails_is_a_sentence(
    node: InstallNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what could not be done."""

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert node.run("install", "--vgpus", "4") == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said == (
        f"nvidia-vgpu: could not write {node.config}/nvidia-vgpu.hcl (No space left on device):"
        " fix that, and run this again"
    )
    node.assert_untouched()


def test_the_places_of_the_single_file_are_known() -> None:
    """What uninstall names is where it unpacks itself."""
    assert UNPACKED == start.ROOTS
