# SPDX-License-Identifier: MPL-2.0
"""Another user races for the folders that root's commands write to."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import PATIENCE_S, PROGRAM
from .hostile import NOBODY, as_root, running

TRIES = 5

_SWAP = """
place, victim = sys.argv[1:]
sys.stdin.readline()
print("true", flush=True)
folder = place + "/folder"
while True:
    try:
        os.rename(folder, place + "/away")
        os.symlink(victim, folder)
        os.unlink(folder)
        os.rename(place + "/away", folder)
    except OSError:
        pass
"""
"""A folder that is by turns his own, and a link to where only root may write."""


@pytest.fixture
def place() -> Iterator[Path]:
    """Gives a folder of another user below /tmp."""
    made = Path(tempfile.mkdtemp(prefix="stranger-", dir="/tmp"))
    os.chown(made, NOBODY, NOBODY)
    yield made
    shutil.rmtree(made)


@as_root
@pytest.mark.parametrize("what", ["plugin_dir", "configuration", "mps.root"])
def test_a_link_that_races_gets_no_byte_of_roots(place: Path, tmp_path: Path, what: str) -> None:
    """However often he tries, nothing appears where his link leads."""
    victim, config, folder = tmp_path / "victim", tmp_path / "nomad.d", place / "folder"
    victim.mkdir(mode=0o700)
    config.mkdir()
    (config / "nomad.hcl").write_text(
        f'data_dir = "{tmp_path}/data"\nclient {{\n enabled = true\n}}\n'
    )
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    folder.mkdir()
    if what == "configuration":
        shutil.copy(config / "nomad.hcl", folder)
    os.chown(folder, NOBODY, NOBODY)
    folder.chmod(0o777)
    install = ["install", "--vgpus", "4", "--config"]
    command = {
        "plugin_dir": [*install, str(config), "--plugin-dir", str(folder)],
        "configuration": [*install, str(folder), "--plugin-dir", str(plugins)],
        "mps.root": ["release", "--mps-root", str(folder)],
    }[what]
    with running(_SWAP, str(place), str(victim)):
        for _ in range(TRIES):
            done = subprocess.run(
                [PROGRAM, *command], capture_output=True, text=True, timeout=PATIENCE_S, check=False
            )
            assert done.returncode != 0, done
    assert list(victim.iterdir()) == []
    assert list(plugins.iterdir()) == []
