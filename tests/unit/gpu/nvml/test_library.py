# SPDX-License-Identifier: MPL-2.0
"""Which library file this process has, and whether it was replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomad_nvidia_vgpu.gpu.nvml.library import LoadedLibrary, loaded_library

NAME = "libdriver.so.1"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Gives the library's file, with the link by which the loader finds it."""
    file = tmp_path / "libdriver.so.580"
    file.write_text("old")
    (tmp_path / NAME).symlink_to(file.name)
    return file


def loaded(installed: Path) -> LoadedLibrary:
    """Gives the library as a process has it that loaded it just now."""
    found = loaded_library(NAME, ["/lib/libc.so.6", str(installed), "[stack]"])
    assert found is not None
    return found


def test_a_loaded_library_is_found(installed: Path) -> None:
    """A library that the process has is found by its file, and has not been replaced."""
    found = loaded(installed)
    assert found.link == installed.with_name(NAME)
    assert found.inode == installed.stat().st_ino
    assert not found.replaced()


@pytest.mark.parametrize("path", ["/lib/libdriver-more.so.1", "/lib/libdriver.a", "[heap]"])
def test_another_library_is_not_taken_for_it(path: str) -> None:
    """Only a file of the library's own name counts."""
    assert loaded_library(NAME, [path]) is None


def test_a_library_that_is_gone_already_is_unknown(installed: Path) -> None:
    """A file that cannot be looked at tells nothing."""
    installed.unlink()
    assert loaded_library(NAME, [str(installed)]) is None


def test_a_deleted_library_is_unknown(installed: Path) -> None:
    """A file that the kernel marks as deleted tells nothing."""
    assert loaded_library(NAME, [f"{installed} (deleted)"]) is None


def test_a_process_without_files_tells_nothing() -> None:
    """Where the list of a process's files cannot be read, no library is known."""
    assert loaded_library(NAME, []) is None


def test_this_process_has_its_own_libraries() -> None:
    """The C library of this very process is found and has not been replaced."""
    found = loaded_library("libc.so.6")
    assert found is None or not found.replaced()


def test_a_changed_link_is_a_replaced_library(installed: Path) -> None:
    """A link that leads to another version means that a new process loads that one."""
    found = loaded(installed)
    new = installed.with_name("libdriver.so.590")
    new.write_text("new")
    found.link.unlink()
    found.link.symlink_to(new.name)
    assert found.replaced()


def test_an_overwritten_file_is_a_replaced_library(installed: Path) -> None:
    """Another file under the same name means that a new process loads that one."""
    found = loaded(installed)
    new = installed.with_name("new")
    new.write_text("new")
    new.rename(installed)
    assert found.replaced()


def test_a_removed_library_is_not_replaced(installed: Path) -> None:
    """While there is no other library, a new process would have none at all."""
    found = loaded(installed)
    installed.unlink()
    assert not found.replaced()
    found.link.unlink()
    assert not found.replaced()
