# SPDX-License-Identifier: MPL-2.0
"""How the single file finds its Python, by the lines that it begins with."""

import importlib.util
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ONEFILE = Path(__file__).parents[2] / "scripts" / "onefile"


def started(tmp_path: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """Runs those lines with these scripts in PATH, each at a path below the test's folder."""
    file = tmp_path / "nvidia-vgpu"
    text = (ONEFILE / "start.sh").read_text().replace("@LENGTH@", "0")
    text = text.replace("@PYTHONS@", "python3.12").replace("@NEEDED@", "Python 3.12")
    file.write_text(text.replace('[ "${bytes:=$built_bytes}" != "$built_bytes" ]', "false"))
    folders = []
    for name, script in programs.items():
        folder, _, called = name.rpartition("_")
        place = tmp_path / folder / "shims" if folder.startswith("pyenv") else tmp_path / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / called).write_text(f"#!/bin/sh\n{script}\n")
        (place / called).chmod(0o755)
        folders.append(str(place))
    path = ":".join(dict.fromkeys([*folders, "/nonexistent"]))
    return subprocess.run(
        ["/bin/sh", str(file), "gpus"],
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_shim_that_starts_nothing_is_passed_over(tmp_path: Path) -> None:
    """Pyenv leaves one for each version that was there once; the next name is tried."""
    shim = "echo pyenv: version is not installed >&2; exit 127"
    done = started(tmp_path, pyenv_python3=shim, usr_python312='echo "ran $*"')
    assert "PATH holds no python3 that starts: install one" in done.stderr
    (tmp_path / "usr" / "python312").rename(tmp_path / "usr" / "python3.12")
    done = started(tmp_path, pyenv_python3=shim, usr_other="")
    assert done.stdout == f"ran -I -S {tmp_path}/nvidia-vgpu gpus\n"


@pytest.fixture
def first() -> ModuleType:
    """The module that runs first in the file, as built for x86_64."""
    spec = importlib.util.spec_from_file_location("first", ONEFILE / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.TAGS = ("cpython-312-x86_64-linux-gnu",)  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("machine", ["aarch64-linux-gnu", "x86_64-linux-musl"])
def test_another_machine_is_not_told_to_install_a_python(
    first: ModuleType,
    machine: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No Python there has modules of this file."""
    monkeypatch.setattr(first, "soabi", lambda: f"cpython-312-{machine}")
    monkeypatch.setattr(os, "execv", None)
    with pytest.raises(SystemExit):
        first.main()
    said = f"this file is for x86_64-linux-gnu, and this machine is {machine}: copy the one"
    assert said in capsys.readouterr().err
