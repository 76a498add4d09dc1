# SPDX-License-Identifier: MPL-2.0
"""What a shared object calls itself: the one fact of an ELF file that a loader searches by.

The format has not changed since it was made, and one string of it is wanted: a library for ELF
would take longer to import than all the drivers' files take to read here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_MAGIC = b"\x7fELF"
_HEADER = 64
_LITTLE_ENDIAN = 1
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_STRTAB, _DT_SONAME = 0, 5, 14
_MAX_TABLE = 1 << 20
_MAX_NAME = 256
_NAME = re.compile(rb"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")


class SharedObject(NamedTuple):
    """A library as programs ask for it."""

    soname: str
    """A plain file name, such as `libcuda.so.1`."""
    bits: int
    """32 or 64."""


class _Layout(NamedTuple):
    """How one of the two classes of ELF lays out what is read here."""

    bits: int
    header: struct.Struct
    """Offset, size of an entry and number of entries of the program headers."""
    segment: struct.Struct
    order: tuple[int, int, int, int]
    """Where type, offset, address and size are among the fields of a program header."""
    entry: struct.Struct
    """Tag and value in the dynamic section."""


_LAYOUTS = {
    1: _Layout(
        32, struct.Struct("<28xI10xHH"), struct.Struct("<8I"), (0, 1, 2, 4), struct.Struct("<2I")
    ),
    2: _Layout(
        64, struct.Struct("<32xQ14xHH"), struct.Struct("<2I6Q"), (0, 2, 3, 5), struct.Struct("<2Q")
    ),
}


class _Segment(NamedTuple):
    type: int
    offset: int
    address: int
    size: int


def shared_object(path: Path) -> SharedObject | None:
    """The library in a file; None if it is none, or has no name of its own, or is not readable."""
    try:
        with path.open("rb") as file:
            return _read(file)
    except (OSError, ValueError, OverflowError, struct.error):
        return None


def _read(file: BinaryIO) -> SharedObject | None:
    head = file.read(_HEADER)
    if len(head) < _HEADER or head[:4] != _MAGIC or head[5] != _LITTLE_ENDIAN:
        return None
    layout = _LAYOUTS.get(head[4])
    if layout is None:
        return None
    segments = list(_segments(file, layout, head))
    for segment in segments:
        if segment.type == _PT_DYNAMIC:
            values = dict(_dynamic(file, layout, segment))
            if _DT_SONAME in values and _DT_STRTAB in values:
                return _named(file, layout, segments, values)
    return None


def _segments(file: BinaryIO, layout: _Layout, head: bytes) -> Iterator[_Segment]:
    offset, size, count = layout.header.unpack_from(head)
    if size < layout.segment.size:
        return
    table = _read_at(file, offset, size * count)
    for start in range(0, len(table), size):
        fields = layout.segment.unpack_from(table, start)
        yield _Segment(*(fields[place] for place in layout.order))


def _dynamic(file: BinaryIO, layout: _Layout, segment: _Segment) -> Iterator[tuple[int, int]]:
    table = _read_at(file, segment.offset, segment.size)
    for tag, value in layout.entry.iter_unpack(
        table[: len(table) // layout.entry.size * layout.entry.size]
    ):
        if tag == _DT_NULL:
            return
        yield tag, value


def _named(
    file: BinaryIO, layout: _Layout, segments: list[_Segment], values: dict[int, int]
) -> SharedObject | None:
    address = values[_DT_STRTAB] + values[_DT_SONAME]
    for segment in segments:
        if segment.type == _PT_LOAD and 0 <= address - segment.address < segment.size:
            text = _read_at(file, segment.offset + address - segment.address, _MAX_NAME)
            name, end, _ = text.partition(b"\0")
            if end and _NAME.fullmatch(name):
                return SharedObject(name.decode("ascii"), layout.bits)
    return None


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(min(size, _MAX_TABLE))
