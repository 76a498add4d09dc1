# SPDX-License-Identifier: MPL-2.0
"""`mps.root`: who may go through it, and who may not be able to change it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from unit.example_gpus import mig

from contract.mps.mps_node import MpsNode, Plugins
from nomad_nvidia_vgpu.sharing.mps.daemon import MpsDaemon


def test_the_root_is_made_open_to_all_and_written_by_us(node: MpsNode, plugins: Plugins) -> None:
    """With all that is missing above it."""
    plugins.keep()
    assert stat.S_IMODE(node.root.stat().st_mode) == 0o755
    deep = node.root / "x" / "y"
    plugins.keep(root=str(deep))
    assert {stat.S_IMODE(p.stat().st_mode) for p in (deep, deep.parent)} == {0o755}


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_root_that_others_can_write_to_is_refused(
    node: MpsNode, plugins: Plugins, mode: int
) -> None:
    """Whoever can put a directory there can play the server for other users' tasks."""
    node.root.mkdir()
    node.root.chmod(mode)
    problem = plugins.keep().problem
    why = f"{node.root} can be written to by others (mode {mode:04o})"
    assert f"can be changed by other users ({why}): fix that" in problem
    assert node.fake.starts() == []


def test_a_root_that_is_a_link_or_a_file_is_refused(
    node: MpsNode, plugins: Plugins, tmp_path: Path
) -> None:
    """A link can be turned round."""
    node.root.symlink_to(tmp_path)
    assert "is not a directory of the user" in plugins.keep().problem
    node.root.unlink()
    node.root.touch()
    assert "is not a directory of the user" in plugins.keep().problem
    assert node.fake.starts() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("there", [True, False])
def test_a_root_that_others_can_replace_is_refused(
    node: MpsNode, plugins: Plugins, *, there: bool
) -> None:
    """Whoever owns the directory above can put a link in its place after any look at it."""
    if there:
        node.root.mkdir()
    os.chown(node.root.parent, 12345, -1)
    before = os.umask(0o077)
    try:
        problem = plugins.keep().problem
    finally:
        os.umask(before)
        os.chown(node.root.parent, 0, -1)
    assert f"can be changed by other users ({node.root.parent} belongs to uid 12345)" in problem
    assert node.fake.starts() == []
    if not there:  # by now it could be a link to anything, of which the mode must not be changed
        assert stat.S_IMODE(node.root.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link away")
def test_a_root_below_a_link_of_somebody_elses_is_refused(
    node: MpsNode, plugins: Plugins, tmp_path: Path
) -> None:
    """He can turn it once it was judged."""
    (tmp_path / "real/mps").mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to("real")
    os.chown(link, 12345, -1, follow_symlinks=False)
    problem = plugins.keep(root=str(link / "mps")).problem
    assert f"can be changed by other users ({link} belongs to uid 12345)" in problem
    assert node.fake.starts() == []


def test_a_root_that_cannot_be_made_is_a_problem_with_its_path(
    node: MpsNode, plugins: Plugins
) -> None:
    """Never a traceback."""
    node.root.touch()
    problem = plugins.keep(root=str(node.root / "mps")).problem
    assert problem.startswith("GPU-a: its MPS daemon cannot be kept (Not a directory")
    assert str(node.root) in problem


def test_daemons_are_kept_under_the_longest_root(node: MpsNode, plugins: Plugins) -> None:
    """40 characters and a MIG device's UUID still make a socket's name (107 bytes)."""
    root = node.root / ("r" * (39 - len(str(node.root))))
    uuid = "MIG-21610264-a49c-6561-2890-83b6ae53b7e5"
    found = plugins.start(root=str(root)).keep(mig(uuid, memory_mib=8000), 1)
    assert found.problem == ""
    assert len(str(root)) == 40
    assert MpsDaemon(root / uuid, uuid, str(node.fake.control)).alive()
