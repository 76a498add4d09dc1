# SPDX-License-Identifier: MPL-2.0
"""What lies in plugin_dir, and what is wrong with it."""

from __future__ import annotations

import os
import platform
import zipfile
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.agent import plugin_dir
from nomad_nvidia_vgpu.cli.agent.plugin_dir import Kind, PluginDir, Program, look, problems
from nomad_nvidia_vgpu.host.files import unsafe

US = {0, os.geteuid()}
SCRIPT = b"#!/opt/v/bin/python\nimport sys\nfrom nomad_nvidia_vgpu.__main__ import main\n"
SINGLE = b"#!/bin/sh\n# SPDX-License-Identifier: MPL-2.0\n# nvidia-vgpu, a Nomad device plugin: x"
GO = b"\x7fELF" + bytes(9000) + b"path\tgithub.com/letmutx/nomad-nvidia-vgpu-plugin"


def program(folder: Path, name: str, content: bytes, mode: int = 0o755) -> Path:
    """A file in the folder."""
    path = folder / name
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (SCRIPT, Kind.OURS),
        (SINGLE, Kind.OURS),
        (GO, Kind.ORIGINAL),
        (b"\x7fELF" + bytes(9000), Kind.OTHER),
        (b"#!/bin/sh\necho nomad-nvidia-vgpu-plugin\n", Kind.OTHER),
        (b"", Kind.OTHER),
    ],
)
def test_programs_are_known_by_their_content(tmp_path: Path, content: bytes, kind: Kind) -> None:
    """Whatever they are called, and behind a link too."""
    (tmp_path / "link").symlink_to(program(tmp_path, "x", content))
    assert look(str(tmp_path), US).programs == (Program("link", kind), Program("x", kind))


def test_the_single_file_begins_as_is_expected() -> None:
    """The mark by which it is known is in it."""
    start = Path(__file__).parents[4] / "scripts/onefile/start.sh"
    assert plugin_dir.kind_of(start) is Kind.OURS


def test_only_what_nomad_would_start_counts(tmp_path: Path) -> None:
    """Files without an execute bit and folders are none of it; a dangling link stops the agent."""
    program(tmp_path, "notes", SCRIPT, 0o644)
    (tmp_path / "folder").mkdir()
    (tmp_path / "gone").symlink_to("nowhere")
    assert look(str(tmp_path), US).programs == (Program("gone", Kind.DANGLING),)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """It is the first thing to say, and how to make it."""
    found = look(str(tmp_path / "plugins"), US)
    assert problems(found) == [
        f"plugin_dir {found.path} is not there: mkdir -p {found.path}, or fix plugin_dir"
    ]


def test_a_good_folder_has_no_problems(tmp_path: Path) -> None:
    """Ours under its name, others' under theirs, and the original in the place we take."""
    for name, kind in (("nvidia-vgpu", Kind.OURS), ("nvidia-vgpu", Kind.ORIGINAL)):
        ours = Program(name, kind)
        assert (
            problems(PluginDir("/p", exists=True, programs=(ours, Program("x", Kind.OTHER)))) == []
        )
    if not unsafe(str(tmp_path), US):
        assert problems(look(str(tmp_path), US)) == []


def test_all_problems_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence each, with what to do."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = PluginDir(
        "/p",
        exists=True,
        noexec=True,
        exposed=("/p belongs to uid 7", "chown root /p"),
        writable=False,
        programs=(
            Program("gone", Kind.DANGLING),
            Program("nomad-nvidia-vgpu", Kind.ORIGINAL),
            Program("nvidia-vgpu", Kind.OTHER),
            Program("vgpu", Kind.OURS),
        ),
    )
    twice = (
        "; of it and nvidia-vgpu Nomad runs one alone, the newer (of equal ones either), with the"
        " options for that file's name: remove it"
    )
    assert problems(found) == [
        "plugin_dir /p is mounted noexec, so that Nomad can start nothing there: set another",
        "/p belongs to uid 7, and Nomad would start what they put there: chown root /p",
        "plugin_dir /p cannot be written to: run this command as root",
        "/p/gone is a link that leads nowhere, and stops the agent: remove it",
        f"/p/nomad-nvidia-vgpu is {Kind.ORIGINAL.value}{twice}",
        "/p/nvidia-vgpu is another program than this plugin: move it away",
        f"/p/vgpu is this plugin{twice}",
    ]


def test_our_own_dangling_link_is_about_to_be_replaced() -> None:
    """An installation that was removed leaves it; a new one fixes it."""
    programs = (Program("nvidia-vgpu", Kind.DANGLING),)
    assert problems(PluginDir("/p", exists=True, programs=programs)) == []


def test_a_program_without_end_is_another_program(tmp_path: Path) -> None:
    """Whoever may write there could fill the memory of root's `install` with one sparse file."""
    endless = program(tmp_path, "endless", b"\x7fELF")
    os.truncate(endless, 1 << 40)
    assert plugin_dir.kind_of(endless) is Kind.OTHER


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"#!/bin/sh\n", None),
        (b"#!/nowhere/python -I\n", "needs /nowhere/python, which is not there"),
        (b"\x7fELF" + bytes(14) + b"\xb7\0", "is for aarch64, and this machine is x86_64"),
        (b"\x7fELF" + bytes(14) + b"\x3e\0", None),
    ],
)
def test_what_cannot_start_is_told_by_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes, said: str | None
) -> None:
    """An interpreter that is gone, another processor."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    (tmp_path / "program").write_bytes(head)
    assert plugin_dir.start_problem(tmp_path / "program") == said


def test_a_single_file_for_another_processor_is_named_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the compiled modules that are in it."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    path = tmp_path / "program"
    for machine, said in (
        ("x86_64", None),
        ("aarch64", "is for aarch64, and this machine is x86_64"),
    ):
        path.write_bytes(b"#!/bin/sh\n")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("__main__.py", f'TAGS = ("cpython-312-{machine}-linux-gnu",)')
        assert plugin_dir.start_problem(path) == said
