# SPDX-License-Identifier: MPL-2.0
"""The name of a library, from its ELF file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cdi_node.node import elf
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.cdi.shared_object import SharedObject, shared_object


def written(tmp_path: Path, data: bytes) -> Path:
    """Gives a file of these bytes."""
    path = tmp_path / "libx.so.1.2.3"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("bits", [32, 64])
def test_a_library_tells_its_name(tmp_path: Path, bits: int) -> None:
    """The name that programs ask for is read, and for which programs it is."""
    path = written(tmp_path, elf("libcuda.so.1", bits))
    assert shared_object(path) == SharedObject("libcuda.so.1", bits)


def test_the_c_library_of_this_process_tells_its_name() -> None:
    """A library that a real linker made is read as well."""
    maps = Path("/proc/self/maps").read_text().split()
    mapped = next(path for path in maps if "/libc.so" in path or "/libc-" in path)
    found = shared_object(Path(mapped))
    assert found is not None
    assert found.soname == "libc.so.6"


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_compiled_library_tells_its_name(tmp_path: Path) -> None:
    """What the linker was told is what is read."""
    path = tmp_path / "out.so"
    command = ["cc", "-shared", "-Wl,-soname,libown.so.7", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=b"int one;", check=True)
    assert shared_object(path) == SharedObject("libown.so.7", 64)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"#!/bin/sh\n",
        b"\x7fELF",
        elf(None),
        elf("libcuda.so.1")[:80],
        elf("../libcuda.so.1"),
        elf("lib cuda.so"),
        elf(".."),
        elf("l" * 300),
        elf("libcuda.so.1")[:5] + b"\2" + elf("libcuda.so.1")[6:],
    ],
)
def test_what_has_no_usable_name_is_none(tmp_path: Path, data: bytes) -> None:
    """A file that is no library, is cut off, or has no plain file name as its name, is none."""
    assert shared_object(written(tmp_path, data)) is None


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    """A file that is not there, or is a directory, is no library."""
    assert shared_object(tmp_path / "nothing") is None
    assert shared_object(tmp_path) is None


@given(st.integers(0, 400), st.binary(min_size=1, max_size=8), st.integers(0, 400))
def test_a_damaged_library_does_no_harm(
    tmp_path_factory: pytest.TempPathFactory, at: int, damage: bytes, length: int
) -> None:
    """Whatever bytes are wrong or missing, the answer is a plain file name or none."""
    data = elf("libcuda.so.1")
    path = written(
        tmp_path_factory.getbasetemp(), (data[:at] + damage + data[at + len(damage) :])[:length]
    )
    found = shared_object(path)
    assert found is None or "/" not in found.soname
