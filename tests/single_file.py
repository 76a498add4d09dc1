# SPDX-License-Identifier: MPL-2.0
"""The single file as it is given out, built for the Pythons of this machine, and where they are."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from built_once import built_once

from nomad_nvidia_vgpu import __version__
from scripts.dist import ROOT, build_wheel
from scripts.onefile import build
from scripts.wheels import PYTHONS, DownloadError, Target

TOO_OLD = ("3.6", "3.7", "3.8", "3.9")


def interpreter(version: str) -> Path | None:
    """A CPython of this version, such as 3.11, if the machine has one."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return Path(sys.base_prefix) / "bin" / f"python{version}"
    installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    on_path = shutil.which(f"python{version}", path="/usr/local/bin:/usr/bin")
    return installed[-1] if installed else Path(on_path) if on_path else None


def wheel(directory: Path, version: str = __version__) -> Path:
    """Builds our wheel into `directory`, of these sources with the version that they say."""
    if version == __version__:
        return build_wheel(directory)
    sources = directory / "sources"
    shutil.copytree(ROOT / "src", sources / "src")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    package = sources / "src/nomad_nvidia_vgpu/__init__.py"
    package.write_text(package.read_text().replace(__version__, version))
    build_wheel(directory, sources)
    return directory / f"nomad_nvidia_vgpu-{version}-py3-none-any.whl"


def built() -> Path:
    """That of the sources as they are now, made once for all who ask; skips as `make` does."""
    names = ("src", "scripts", "requirements/run.txt", "pyproject.toml", "README.md", "LICENSE")
    sources = [ROOT / name for name in names]
    pythons = [str(interpreter(version)) for version in PYTHONS]
    (path,) = built_once("single-file", sources, make, *pythons).glob("nvidia-vgpu-*-linux-*")
    return path


def make(directory: Path, version: str = __version__) -> Path:
    """Builds it into `directory`; skips where the wheels cannot be had."""
    machine = os.uname().machine
    targets = [Target(version, machine) for version in PYTHONS if interpreter(version)]
    try:
        wheels = build.contents(wheel(directory, version), targets)
    except DownloadError as error:
        pytest.skip(str(error))
    return build.build_file(directory, wheels)
