# SPDX-License-Identifier: MPL-2.0
"""A pretended node with a CDI specification, and all files that the specification names.

The specifications in `specs` have the shape in which NVIDIA's toolkit of that version writes them.
`@host@` in them is the directory of the node: host and container paths differ, as they do where the
driver is installed in a container.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

SPECS = Path(__file__).parent / "specs"
NAMES = tuple(sorted(path.name for path in SPECS.iterdir()))

GPUS = ("GPU-5c0a8d44-0000-4000-8000-000000000000", "GPU-5c0a8d44-0000-4000-8000-000000000001")
"""The GPUs of all specifications: `/dev/nvidia1` is the first, `/dev/nvidia0` the second."""
MIG_DEVICES = (
    "MIG-9b1f2c00-0000-5000-8000-000000000001",
    "MIG-9b1f2c00-0000-5000-8000-000000000002",
)
"""Of the first GPU, in `mig.yaml`."""

_SONAME = re.compile(r"(lib[\w-]+\.so)\.(\d+)(\.\d+)+")
_MIG_MINORS = "config 1\nmonitor 2\ngpu1/gi1/access 12\ngpu1/gi1/ci0/access 13\n"
_MIG_MINORS_2 = "gpu1/gi2/access 21\ngpu1/gi2/ci0/access 22\n"


class CdiNode:
    """A node below `root`, whose specification a test can choose."""

    def __init__(self, root: Path, spec: str = "toolkit-1.17.yaml") -> None:
        """Writes the specification and every file that it names."""
        self.root = root
        self.etc = root / "etc-cdi"
        self.run = root / "run-cdi"
        self.driver = root / "proc-driver"
        for directory in (self.etc, self.run, self.driver):
            directory.mkdir(parents=True)
        self.directories = (str(self.etc), str(self.run))
        self.load(spec)

    def load(self, spec: str, *, devices: str | None = None, uuids: tuple[str, ...] = GPUS) -> Path:
        """The specification in the first directory; what it names is made.

        `devices`: a device of this machine that stands for all of the node's. `uuids`: what its
        GPUs are called.
        """
        text = (SPECS / spec).read_text()
        if devices is not None:
            text = re.sub(r"@host@/dev/[\w/-]+", devices, text)
        for before, now in zip(GPUS, uuids, strict=False):
            text = text.replace(before, now)
        for path in sorted(set(re.findall(r"@host@(/[^\s\"',]+)", text))):
            self.make(path)
        return self.write(text.replace("@host@", str(self.root)), "nvidia" + Path(spec).suffix)

    def write(self, text: str, name: str = "nvidia.yaml", *, later: bool = False) -> Path:
        """A specification of this text, in the first directory or in the later one."""
        path = (self.run if later else self.etc) / name
        path.write_text(text)
        return path

    def make(self, path: str) -> Path:
        """One file of the host, a library if it is called like one."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        soname = _SONAME.fullmatch(place.name)
        bits = 32 if "i386" in path else 64
        place.write_bytes(elf(f"{soname[1]}.{_major(soname)}", bits) if soname else b"")
        return place

    def load_driver(self) -> None:
        """The kernel module tells of the two GPUs, at 0000:07:00.0 and 0000:08:00.0."""
        for uuid, bus_id, minor in ((GPUS[0], "0000:07:00.0", 1), (GPUS[1], "0000:08:00.0", 0)):
            place = self.driver / "nvidia" / "gpus" / bus_id
            place.mkdir(parents=True)
            facts = f"Model: \t\t NVIDIA L4\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n"
            (place / "information").write_text(facts)
        (self.driver / "nvidia-caps").mkdir()
        (self.driver / "nvidia-caps" / "mig-minors").write_text(_MIG_MINORS + _MIG_MINORS_2)


def _major(match: re.Match[str]) -> str:
    """As NVIDIA names them: most by 1, those that only the driver loads by its version."""
    private = match[1] in ("libnvidia-glcore.so", "libnvidia-gpucomp.so")
    return match[0].removeprefix(f"{match[1]}.") if private else "1"


def elf(soname: str | None, bits: int = 64) -> bytes:
    """The smallest shared object that a loader would take this name from; None: it has none."""
    strings = b"\0" + (soname or "").encode() + b"\0"
    wide = bits == 64
    header, entry, each = (64, 56, 16) if wide else (52, 32, 8)
    table = header + 2 * entry
    address = 0x1000
    tags = [(5, address + table), *([(14, 1)] if soname else []), (0, 0)]
    dynamic = table + len(strings)
    size = dynamic + len(tags) * each

    def segment(kind: int, offset: int, length: int) -> bytes:
        where = (offset, address + offset, address + offset, length, length)
        return (
            struct.pack("<2I6Q", kind, 4, *where, 8)
            if wide
            else struct.pack("<8I", kind, *where, 4, 4)
        )

    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    word = "Q" if wide else "I"
    rest = struct.pack(f"<HHI3{word}I6H", 3, 62, 1, 0, header, 0, 0, header, entry, 2, 0, 0, 0)
    made = ident + rest + segment(1, 0, size) + segment(2, dynamic, len(tags) * each) + strings
    return made + b"".join(struct.pack(f"<2{word}", *tag) for tag in tags)


def touch_later(path: Path) -> None:
    """Lets a file look as changed, whatever the clock's resolution."""
    now = path.stat().st_mtime_ns
    os.utime(path, ns=(now + 10**9, now + 10**9))
