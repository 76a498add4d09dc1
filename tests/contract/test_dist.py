# SPDX-License-Identifier: MPL-2.0
"""What `make dist` makes, for both machines: whole, described, and the same wherever it is made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import single_file

from scripts import dist
from scripts.onefile import build
from scripts.wheels import ARCHITECTURES, PYTHONS, DownloadError, Target

pytestmark = pytest.mark.timeout(600)  # wheels are downloaded

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SOURCES = ("src", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with all that is made, for one Python."""
    out = tmp_path_factory.mktemp("made")
    if dist.main(["--out", str(out), "--python", PYTHON]) != 0:
        single_file.missing("the wheels cannot be had")
    return out


def test_the_sums_are_of_all_that_is_made(made: Path) -> None:
    """A wheel and two single files."""
    things = {path.name for path in made.iterdir()} - {"SHA256SUMS"}
    assert len(things) == 3
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(command, cwd=made, check=True, capture_output=True, text=True)
    assert {line.removesuffix(": OK") for line in done.stdout.splitlines()} == things


@pytest.mark.parametrize("python", PYTHONS)
def test_each_python_has_the_same_modules_on_both_machines(
    python: str, made: Path, tmp_path: Path
) -> None:
    """None is missing on aarch64, where nothing of this can be started in tests.

    `merged` has looked at each compiled one: for that machine, under a name which that Python takes.
    """
    (ours,) = made.glob("*.whl")
    modules = []
    for architecture in ARCHITECTURES:
        target = Target(python, architecture)
        try:
            wheels = build.contents(ours, [target])[target]
        except DownloadError as error:
            single_file.missing(str(error))
        tree = build.merged(target, wheels)
        assert sum(name.endswith(".so") for name in tree) >= 5
        modules.append({n.replace(architecture, "") for n in tree if ".dist-info/" not in n})
    assert modules[0] == modules[1]


def test_the_same_sources_give_the_same_wheel(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever, whenever, by whomever they were checked out, and whatever their environment says."""
    source, out = tmp_path / "elsewhere", tmp_path / "out"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (dist.ROOT / name).is_dir() else shutil.copy
        copy(dist.ROOT / name, source / name)
    for path in source.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(0o700 if path.is_dir() else 0o600)
    environment = {
        "SOURCE_DATE_EPOCH": "1700000000",
        "TZ": "Pacific/Auckland",
        "LC_ALL": "C",
        "PYTHONHASHSEED": "1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = os.umask(0o077)
    try:
        again = dist.build_wheel(out, source)
    finally:
        os.umask(before)
    assert again.read_bytes() == (made / again.name).read_bytes()
