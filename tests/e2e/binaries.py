# SPDX-License-Identifier: MPL-2.0
"""Which Nomad the tests run, and what happens where there is none."""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PLUGIN_NAME = "nvidia-vgpu"

_DEFAULT_DIR = REPOSITORY / "build/nomad"


CHOSEN = "nomad"
"""The name of the Nomad that the whole suite runs on."""
OLD = "nomad-1.1"
"""The oldest Nomad that the tests run: 1.1.2, on which the original plugin was built."""


class Version(NamedTuple):
    """A version of Nomad; two compare as their releases do."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return ".".join(map(str, self))


def nomad() -> Path:
    """The Nomad that `make e2e NOMAD=` names, else the built one, else that on PATH; skips without."""
    if chosen := os.environ.get("NVIDIA_VGPU_NOMAD"):
        return Path(chosen)
    on_path = shutil.which("nomad")
    return Path(on_path) if on_path and not _is_built("nomad") else built("nomad")


@cache
def version_of(binary: Path) -> Version:
    """What a Nomad says of itself."""
    said = subprocess.run([binary, "version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", said)
    assert found, said
    return Version(*map(int, found.groups()))


def needs(binary: Path, *least: int) -> None:
    """Skips a test on a Nomad that is too old for what it tests."""
    version = version_of(binary)
    if version < least:
        pytest.skip(f"Nomad {version} cannot do this; {'.'.join(map(str, least))} and newer can")


def named(name: str) -> Path:
    """The Nomad that the run is for, or another built one by its name."""
    return nomad() if name == CHOSEN else built(name)


def built(name: str) -> Path:
    """A binary that `make nomad` built; skips without it."""
    path = _path(name)
    if not _is_built(name):
        pytest.skip(f"{path} is not there: `make nomad` builds it, where Go is installed")
    return path


def _is_built(name: str) -> bool:
    return os.access(_path(name), os.X_OK)


def _path(name: str) -> Path:
    return Path(os.environ.get("NVIDIA_VGPU_NOMAD_DIR") or _DEFAULT_DIR) / name


def plugin() -> Path:
    """The installed console script, which is what `plugin_dir` links to."""
    path = Path(os.environ.get("NVIDIA_VGPU_PLUGIN") or REPOSITORY / ".venv/bin" / PLUGIN_NAME)
    if not os.access(path, os.X_OK):
        pytest.skip(f"{path} is not there: `make setup` installs it")
    return path


def shared_objects(*programs: str) -> list[str]:
    """Paths of what the dynamic loader maps for these programs, the loader included."""
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    words = {word for line in listed.splitlines() for word in line.split()}
    # The programs themselves are there too, as "path:", without being shared objects.
    return sorted(w for w in words if w.startswith("/") and not w.endswith(":"))
