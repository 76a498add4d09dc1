# SPDX-License-Identifier: MPL-2.0
"""Where the program begins."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nomad_nvidia_vgpu
from nomad_nvidia_vgpu.__main__ import MIN_PYTHON

PACKAGE = Path(nomad_nvidia_vgpu.__file__).parent
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

IMPORTED_TO_SERVE = "import sys; from nomad_nvidia_vgpu import serve; print(*sys.modules)"


@pytest.mark.parametrize("name", ["__main__.py", "__init__.py", "cookie.py"])
def test_an_old_python_gets_as_far_as_the_sentence(name: str) -> None:
    """What runs before the version is checked compiles on Pythons long out of service."""
    ast.parse((PACKAGE / name).read_text(), feature_version=(3, 4))


def test_the_floor_is_the_packages() -> None:
    """The oldest Python that the program accepts is the oldest that it can be installed on."""
    assert f'requires-python = ">={MIN_PYTHON[0]}.{MIN_PYTHON[1]}"' in PYPROJECT.read_text()


def test_serving_imports_only_what_every_start_needs() -> None:
    """What only people need, or only a start that is asked for GPUs, is not imported to serve."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED_TO_SERVE], capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.split())
    assert "nomad_nvidia_vgpu.serve" in imported
    unwanted = {
        *("click", "rich", "pynvml", "msgpack", "durationpy", "importlib.metadata"),
        *("prometheus_client", "http.server"),
    }
    assert not unwanted & imported
    later = tuple(f"nomad_nvidia_vgpu.{part}" for part in ("cli", "device", "gpu", "sharing"))
    assert not any(name.startswith(later) for name in imported)
