# SPDX-License-Identifier: MPL-2.0
"""One executable file per architecture, the same bytes each time.

It is `start.sh` and a zip archive of `__main__.py`, `unpack.py` and more archives: one with
what all Pythons share, and one for each Python with its compiled modules.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from nomad_nvidia_vgpu import __version__
from scripts.license_texts import license_texts
from scripts.pins import REQUIREMENTS, pins
from scripts.wheels import Target, download

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every member: the earliest that zip can say, since none means anything."""

_ELF = bytes.fromhex("7f454c46 020101")
"""How a 64-bit little-endian ELF file begins."""

_MACHINES = {"x86_64": 62, "aarch64": 183}
"""As they are numbered in ELF files, `e_machine`."""

_LENGTH = b"@LENGTH@"
"""In `start.sh`: as many letters as the number has digits and spaces, so that nothing moves."""

Tree = dict[str, bytes]
"""Files by their path."""


def contents(ours: Path, targets: Sequence[Target]) -> dict[Target, list[Path]]:
    """The wheels that each Python is given: those of requirements/run.txt and ours. DownloadError."""
    pinned = list(pins((REQUIREMENTS / "run.txt").read_text()))
    return {target: [*download(target, target.needed(pinned)), ours] for target in targets}


def build_file(out: Path, wheels: Mapping[Target, Sequence[Path]]) -> Path:
    """The single file with these wheels, which are for one architecture."""
    trees = {target.tag: merged(target, paths) for target, paths in wheels.items()}
    (architecture,) = {target.architecture for target in wheels}
    path = out / f"nvidia-vgpu-{__version__}-linux-{architecture}"
    path.write_bytes(assembled(trees, needed(list(wheels))))
    path.chmod(0o755)
    return path


def needed(targets: Sequence[Target]) -> str:
    """Which Pythons the file can run on, for people."""
    pythons = sorted((t.python for t in targets), key=lambda v: [int(n) for n in v.split(".")])
    versions = pythons[0] if len(pythons) == 1 else f"{pythons[0]} to {pythons[-1]}"
    return f"CPython {versions} for {targets[0].architecture} with glibc"


def merged(target: Target, wheels: Sequence[Path]) -> Tree:
    """The files of these wheels as they would be installed for `target`."""
    tree: Tree = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.partition("/")[0].endswith(".data") or name in tree:
                    raise AssertionError(f"{wheel.name}: {name} would need more than unpacking")
                if not name.endswith("/"):
                    tree[name] = archive.read(name)
                    check_native(target, name, tree[name])
        for name, text in license_texts(wheel).items():
            tree.setdefault(name, text.encode())
    return tree


def check_native(target: Target, name: str, data: bytes) -> None:
    """AssertionError if this is native code that `target` would not load."""
    if not data.startswith(_ELF[:4]) and not name.endswith(".so"):
        return
    machine = int.from_bytes(data[18:20], "little")
    if not data.startswith(_ELF) or machine != _MACHINES[target.architecture]:
        raise AssertionError(f"{name} is not compiled for {target.architecture}")
    if not name.endswith((f".{target.tag}.so", ".abi3.so")):
        raise AssertionError(f"{name} is not what {target.tag} calls a module")


def assembled(trees: Mapping[str, Tree], wanted: str) -> bytes:
    """The single file; `trees` holds what is to be unpacked for each tag."""
    first, *others = trees.values()
    common = {n: data for n, data in first.items() if all(o.get(n) == data for o in others)}
    members = {"common.zip": archive(common)}
    for tag, tree in trees.items():
        own = {name: data for name, data in tree.items() if name not in common}
        members[f"{tag}.zip"] = archive(own)
    digest = hashlib.sha256(b"".join(members[name] for name in sorted(members)))
    names = sorted({f"python3.{tag.split('-')[1][1:]}" for tag in trees}, key=_newest_first)
    filled = {
        'BUILD = "unbuilt"': f'BUILD = "{__version__}-{digest.hexdigest()[:16]}"',
        "TAGS = ()": f"TAGS = {tuple(sorted(trees))!r}",
        "PYTHONS = ()": f"PYTHONS = {tuple(names)!r}",
        'NEEDED = "unbuilt"': f'NEEDED = "{wanted}"',
    }
    members["__main__.py"] = _filled(HERE / "__main__.py", filled)
    for name in ("scripts/__init__.py", "scripts/onefile/__init__.py", "scripts/onefile/unpack.py"):
        members[name] = (ROOT / name).read_bytes()
    start = _filled(HERE / "start.sh", {"@PYTHONS@": " ".join(names), "@NEEDED@": wanted})
    file = archive(members, compress=False, prefix=start)
    return file.replace(_LENGTH, b"%-*d" % (len(_LENGTH), len(file)), 1)


def _newest_first(name: str) -> int:
    return -int(name.partition(".")[2])


def _filled(path: Path, values: Mapping[str, str]) -> bytes:
    text = path.read_text(encoding="utf-8")
    for mark, value in values.items():
        if text.count(mark) != 1:
            raise AssertionError(f"{path.name} must hold {mark} once")
        text = text.replace(mark, value)
    return text.encode()


def archive(tree: Mapping[str, bytes], *, compress: bool = True, prefix: bytes = b"") -> bytes:
    """A zip archive that depends on nothing but what is in it."""
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    stream = io.BytesIO(prefix)
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "w") as made:
        for name in sorted(tree):
            member = zipfile.ZipInfo(name, date_time=_TIME)
            member.compress_type = kind
            member.create_system = 3  # Unix, wherever it is built
            member.external_attr = 0o644 << 16
            made.writestr(member, tree[name])
    return stream.getvalue()
