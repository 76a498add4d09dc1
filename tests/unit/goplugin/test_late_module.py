# SPDX-License-Identifier: MPL-2.0
"""A module that runs only when somebody looks into it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.goplugin.late_module import LateModule


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that imports two modules of its own, the one that runs and `late`."""
    (tmp_path / "twofold").mkdir()
    (tmp_path / "twofold/__init__.py").write_text(
        "from twofold import soon\nfrom twofold import late"
    )
    for name in ("soon", "late"):
        (tmp_path / f"twofold/{name}.py").write_text(
            "import sys\nsys.ran.append(__name__)\nhere = 1"
        )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "ran", [], raising=False)
    monkeypatch.setattr(sys, "meta_path", [LateModule("twofold.late"), *sys.meta_path])
    for name in ("twofold", "twofold.soon", "twofold.late"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "twofold"


def test_it_runs_when_it_is_looked_into(package: str) -> None:
    """And not when it is imported; other modules run as ever."""
    imported = __import__(package)
    assert vars(sys)["ran"] == ["twofold.soon"]
    assert imported.late.here == 1
    assert vars(sys)["ran"] == ["twofold.soon", "twofold.late"]


def test_what_is_not_there_is_not_found() -> None:
    """The import fails as it would without it."""
    assert LateModule("twofold.absent").find_spec("twofold.absent", []) is None


def test_grpcs_asyncio_half_does_not_run_when_serving() -> None:
    """It is a tenth of what a launch imports; whoever asks for it has it all the same."""
    program = """
import sys
from nomad_nvidia_vgpu.goplugin.late_module import LateModule
sys.meta_path.insert(0, LateModule("grpc.aio"))
from nomad_nvidia_vgpu import serve
print("grpc.aio._channel" in sys.modules)
import grpc
grpc.aio.Channel
print("grpc.aio._channel" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]
