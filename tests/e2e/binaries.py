# SPDX-License-Identifier: MPL-2.0
"""Which Nomad the tests run, and what happens where there is none."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PLUGIN_NAME = "nvidia-vgpu"

_DEFAULT_DIR = REPOSITORY / "build/nomad"


def nomad() -> Path:
    """The `nomad` on PATH, else the one that was built; skips without either."""
    on_path = shutil.which("nomad")
    return Path(on_path) if on_path else built("nomad")


def built(name: str) -> Path:
    """A binary that `make nomad` built; skips without it."""
    path = Path(os.environ.get("NVIDIA_VGPU_NOMAD_DIR") or _DEFAULT_DIR) / name
    if not os.access(path, os.X_OK):
        pytest.skip(f"{path} is not there: `make nomad` builds it, where Go is installed")
    return path


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
