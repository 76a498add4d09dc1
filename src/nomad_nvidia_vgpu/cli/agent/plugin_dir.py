# SPDX-License-Identifier: MPL-2.0
"""What lies in an agent's `plugin_dir`, and what is wrong with it."""

from __future__ import annotations

import mmap
import os
import platform
import re
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from nomad_nvidia_vgpu.cli.agent.config_file import LABEL
from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.host.files import exposed

_HEAD = 4096
_SHEBANG = re.compile(rb"#! *(/[^ \n]+)")
_TAG = re.compile(r"cpython-3\d+-(\w+)-linux")
"""The kinds of Python whose compiled modules are in the single file, as its first module names them."""
_MACHINES = {0x3E: "x86_64", 0xB7: "aarch64"}
"""ELF's numbers of the processors that have NVIDIA's drivers."""
_OURS = (b"# nvidia-vgpu, a Nomad device plugin", b"nomad_nvidia_vgpu")
"""In the first lines of the single file, and of the console script that pip writes."""
_BUILT_BYTES = re.compile(rb"^built_bytes=(\d+) *$", re.MULTILINE)
"""How long the single file is, in its own first lines (scripts/onefile/start.sh)."""
_ELF = b"\x7fELF"
_MAX_ELF = 256 << 20
_ORIGINAL = b"nomad-nvidia-vgpu-plugin"
"""The Go module of the plugin that we replace, which Go writes into each binary."""


class Kind(Enum):
    """Whose program a file is."""

    OURS = "this plugin"
    ORIGINAL = "the original plugin, letmutx/nomad-nvidia-vgpu-plugin"
    DANGLING = "a link that leads nowhere"
    OTHER = "another program"


class Program(NamedTuple):
    """One file that Nomad would start."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class PluginDir:
    """The facts about one folder."""

    path: str
    exists: bool
    noexec: bool = False
    exposed: tuple[str, str] | None = None
    """Who can change what is in it and should not, as half a sentence; and what ends that."""
    writable: bool = True
    programs: tuple[Program, ...] = ()

    def holds(self, name: str) -> Kind | None:
        """Whose program has this name."""
        return next((program.kind for program in self.programs if program.name == name), None)


def look(path: str, trusted: Collection[int]) -> PluginDir:
    """The facts about the folder at an absolute path; OSError if it cannot be read.

    `trusted` are the uids that may change what is in it.
    """
    if not Path(path).is_dir():
        return PluginDir(path, exists=False)
    return PluginDir(
        path,
        exists=True,
        noexec=is_noexec(path),
        exposed=exposed(path, trusted),
        writable=os.access(path, os.W_OK | os.X_OK),
        programs=tuple(sorted(_programs(Path(path)))),
    )


def problems(found: PluginDir) -> list[Problem]:
    """Why the plugin cannot be put there, one sentence each."""
    where = f"plugin_dir {found.path}"
    if not found.exists:
        if os.path.lexists(found.path):
            return [Problem(f"{where} is not a folder", "move it away, or set another")]
        return [Problem(f"{where} is not there", f"mkdir -p {found.path}, or fix plugin_dir")]
    said = []
    if found.noexec:
        said.append(
            Problem(
                f"{where} is mounted noexec, so that Nomad can start nothing there", "set another"
            )
        )
    if found.exposed:
        who, remedy = found.exposed
        said.append(open_to_others(who, remedy))
    if not found.writable:
        said.append(not_writable(where))
    for program in found.programs:
        path = f"{found.path}/{program.name}"
        if program.kind is Kind.DANGLING and program.name != LABEL:
            said.append(
                Problem(f"{path} is {program.kind.value}, and stops the agent", "remove it")
            )
        elif program.kind is Kind.OTHER and program.name == LABEL:
            said.append(Problem(f"{path} is {program.kind.value} than this plugin", "move it away"))
        elif program.kind in (Kind.OURS, Kind.ORIGINAL) and program.name != LABEL:
            said.append(
                Problem(
                    f"{path} is {program.kind.value}; of it and {LABEL} Nomad runs one alone, the"
                    " newer (of equal ones either), with the options for that file's name",
                    "remove it",
                )
            )
    return said


def open_to_others(who: str, remedy: str) -> Problem:
    """Why nothing is put into, or taken out of, a folder that others can change."""
    return Problem(f"{who}, and Nomad would start what they put there", remedy)


def not_writable(what: str) -> Problem:
    """Why nothing can be put into a folder that is there."""
    if os.geteuid() == 0:
        return Problem(
            f"{what} is on a read-only file system", "mount it for writing, or set another"
        )
    return Problem(f"{what} cannot be written to", "run this command as root")


def is_noexec(path: str) -> bool:
    """Whether nothing on that file system can be started."""
    return bool(os.statvfs(path).f_flag & os.ST_NOEXEC)


def kind_of(path: Path) -> Kind:
    """Whose program this file is; OSError if it cannot be read."""
    if not path.exists():
        return Kind.DANGLING
    with path.open("rb") as file:
        head = file.read(_HEAD)
        if any(mark in head for mark in _OURS):
            return Kind.OURS
        if head.startswith(_ELF) and _holds(file.fileno(), _ORIGINAL):
            return Kind.ORIGINAL
    return Kind.OTHER


def damage(path: Path) -> str | None:
    """Why a single file is not whole, as half a sentence; None if it is, or is none. OSError."""
    with path.open("rb") as file:
        built = _BUILT_BYTES.search(file.read(_HEAD))
        there = os.fstat(file.fileno()).st_size
    if built is None or int(built[1]) == there:
        return None
    return f"is damaged ({there} bytes long, and built with {int(built[1])})"


def start_problem(path: Path) -> str | None:
    """Why Nomad could not start this program, by what is in it, as half a sentence. OSError."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_ELF):
        machine = _MACHINES.get(int.from_bytes(head[18:20], "little"))
        other = machine is not None and machine != platform.machine()
        return f"is for {machine}, and this machine is {platform.machine()}" if other else None
    interpreter = _SHEBANG.match(head)
    if interpreter and not Path(os.fsdecode(interpreter[1])).exists():
        return f"needs {os.fsdecode(interpreter[1])}, which is not there"
    try:
        with zipfile.ZipFile(path) as archive:
            tags = _TAG.findall(archive.read("__main__.py").decode())
    except (zipfile.BadZipFile, KeyError, ValueError):
        return None  # a program that is no archive; what is damaged is told by its length
    machines = sorted(set(tags))
    if machines and platform.machine() not in machines:
        return f"is for {' and '.join(machines)}, and this machine is {platform.machine()}"
    return None


def _holds(file: int, mark: bytes) -> bool:
    """Whether a program has these bytes; mapped, because it may be larger than the memory."""
    size = min(os.fstat(file).st_size, _MAX_ELF)
    with mmap.mmap(file, size, access=mmap.ACCESS_READ) as mapped:
        return mapped.find(mark) >= 0


def _programs(folder: Path) -> Iterator[Program]:
    """What Nomad up to 1.9 would start: files with any execute bit; and links that stop it."""
    for path in folder.iterdir():
        if path.is_symlink() and not path.exists():
            yield Program(path.name, Kind.DANGLING)
        elif path.is_file() and path.stat().st_mode & 0o111:
            yield Program(path.name, kind_of(path))
        elif path.name == LABEL and not (path.is_file() and kind_of(path) is Kind.OURS):
            yield Program(path.name, Kind.OTHER)  # a folder, or somebody's notes: in our way
