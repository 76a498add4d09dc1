# SPDX-License-Identifier: MPL-2.0
"""What is put into the single file, and that it is the same each time."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.agent import plugin_dir
from scripts.onefile import build
from scripts.wheels import Target

OLD, NEW = Target("3.9", "x86_64"), Target("3.14", "x86_64")
TREES = {
    OLD.tag: {"shared.py": b"1", "differs.py": b"old", "c.39.so": b"\0"},
    NEW.tag: {"shared.py": b"1", "differs.py": b"new", "c.314.so": b"\0"},
}


def inner(file: bytes, member: str) -> dict[str, bytes]:
    """The files in one of the archives in the single file."""
    with zipfile.ZipFile(io.BytesIO(zipfile.ZipFile(io.BytesIO(file)).read(member))) as found:
        return {name: found.read(name) for name in found.namelist()}


def test_what_all_pythons_share_is_in_it_once() -> None:
    """The rest is with the Python that needs it."""
    file = build.assembled(TREES, "CPython")
    assert inner(file, "common.zip") == {"shared.py": b"1"}
    assert inner(file, f"{OLD.tag}.zip") == {"differs.py": b"old", "c.39.so": b"\0"}


def test_the_same_input_gives_the_same_bytes() -> None:
    """Whatever the order in which files were found, and whenever it was built."""
    turned = {tag: dict(reversed(tree.items())) for tag, tree in reversed(TREES.items())}
    assert build.assembled(turned, "CPython") == build.assembled(TREES, "CPython")


def test_another_content_has_another_name() -> None:
    """Two builds of one version never take each other's unpacked contents for their own."""
    changed = {**TREES, NEW.tag: {**TREES[NEW.tag], "shared.py": b"2"}}
    mains = [
        zipfile.ZipFile(io.BytesIO(build.assembled(trees, "CPython"))).read("__main__.py")
        for trees in (TREES, changed)
    ]
    builds = [line for text in mains for line in text.splitlines() if line.startswith(b"BUILD")]
    assert len(set(builds)) == 2


def test_the_shell_looks_for_the_newest_python_first() -> None:
    """After the one that the machine calls python3; and 3.14 is newer than 3.9."""
    start = build.assembled(TREES, "CPython 3.9 to 3.14").partition(b"PK")[0].decode()
    assert "for python in python3 python3.14 python3.9; do" in start
    assert "@" not in start.replace('"$@"', "")


@pytest.mark.parametrize("more", [0, 50_000])
def test_the_shell_knows_how_long_the_file_is(tmp_path: Path, more: int) -> None:
    """One that was cut off is told from a whole one, whatever number of digits that takes."""
    file = build.assembled({NEW.tag: {"x.so": random.Random(0).randbytes(more)}}, "CPython")
    assert f"built_bytes={len(file)} ".encode() in file
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.write_bytes(file)
    cut.write_bytes(file[:-1])
    assert plugin_dir.damage(whole) is None
    assert plugin_dir.damage(cut) == (
        f"is damaged ({len(file) - 1} bytes long, and built with {len(file)})"
    )


def test_people_read_which_pythons_it_runs_on() -> None:
    """The range, the machine and the C library, in the order of versions and not of letters."""
    assert build.needed([NEW, OLD]) == "CPython 3.9 to 3.14 for x86_64 with glibc"
    assert build.needed([NEW]) == "CPython 3.14 for x86_64 with glibc"


def test_a_wheel_that_needs_more_than_unpacking_is_refused(tmp_path: Path) -> None:
    """Scripts and headers would be lost without a word."""
    wheel = tmp_path / "x-1-py3-none-any.whl"
    wheel.write_bytes(build.archive({"x-1.data/scripts/x": b""}))
    with pytest.raises(AssertionError, match=r"x-1\.data/scripts/x would need more"):
        build.merged(NEW, [wheel])


def elf(machine: int) -> bytes:
    """How a compiled module begins that is for this machine, as ELF numbers them."""
    return b"\x7fELF\2\1\1" + bytes(9) + b"\3\0" + machine.to_bytes(2, "little")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a/b.cpython-314-aarch64-linux-gnu.so", elf(62), "is not compiled for aarch64"),
        ("a.libs/libb.so.1", elf(62), "is not compiled for aarch64"),
        ("a/b.abi3.so", b"\xcf\xfa\xed\xfe", "is not compiled for aarch64"),
        ("a/b.cpython-313-aarch64-linux-gnu.so", elf(183), "is not what cpython-314-aarch64"),
        ("a/b.cpython-314-x86_64-linux-gnu.so", elf(183), "is not what cpython-314-aarch64"),
    ],
)
def test_native_code_of_another_machine_or_python_is_refused(
    name: str, data: bytes, said: str
) -> None:
    """It would be missed on the node only, when the module is imported."""
    with pytest.raises(AssertionError, match=said):
        build.check_native(Target("3.14", "aarch64"), name, data)


@pytest.mark.parametrize("name", ["a/b.cpython-314-aarch64-linux-gnu.so", "a/b.abi3.so"])
def test_native_code_of_the_machine_is_taken(name: str) -> None:
    """For this Python, or for each from some version on."""
    build.check_native(Target("3.14", "aarch64"), name, elf(183))
