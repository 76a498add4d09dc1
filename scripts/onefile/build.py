# SPDX-License-Identifier: MPL-2.0
"""`make dist`: our wheel, and one executable file per architecture, the same bytes each time.

The file is `start.sh` and a zip archive of `__main__.py`, `unpack.py` and more archives: one with
what all Pythons share, and one for each Python with its compiled modules.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from nomad_nvidia_vgpu import __version__
from scripts.onefile.wheels import ARCHITECTURES, PYTHONS, DownloadError, Target, download

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
REQUIREMENTS = ROOT / "requirements" / "run.txt"
CACHE = ROOT / "build" / "onefile"

_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every member: the earliest that zip can say, since none means anything."""

Tree = dict[str, bytes]
"""Files by their path."""


def main() -> int:
    """Builds what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.onefile.build", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--architecture", choices=ARCHITECTURES, action="append")
    parser.add_argument("--python", choices=PYTHONS, action="append", help="not all of them")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    made = [build_wheel(asked.out)]
    try:
        for architecture in asked.architecture or ARCHITECTURES:
            targets = [Target(python, architecture) for python in asked.python or PYTHONS]
            made.append(build_file(asked.out, made[0], targets))
    except DownloadError as error:
        print(error, file=sys.stderr)
        return 1
    for path in made:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{digest}  {path.name}  ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


def build_wheel(out: Path) -> Path:
    """Our wheel, which hatchling makes reproducible; CalledProcessError."""
    (out / f"nomad_nvidia_vgpu-{__version__}-py3-none-any.whl").unlink(missing_ok=True)
    command = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "wheel")
    options = ("--no-deps", "--no-build-isolation", f"--wheel-dir={out}")
    environment = {k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"}
    subprocess.run((*command, *options, str(ROOT)), env=environment, check=True)
    return out / f"nomad_nvidia_vgpu-{__version__}-py3-none-any.whl"


def build_file(out: Path, ours: Path, targets: Sequence[Target]) -> Path:
    """The single file for `targets`, which are of one architecture; DownloadError."""
    trees = {
        target.tag: merged([*download(target, REQUIREMENTS, CACHE), ours]) for target in targets
    }
    (architecture,) = {target.architecture for target in targets}
    path = out / f"nvidia-vgpu-{__version__}-linux-{architecture}"
    path.write_bytes(assembled(trees, needed(targets)))
    path.chmod(0o755)
    return path


def needed(targets: Sequence[Target]) -> str:
    """Which Pythons the file can run on, for people."""
    pythons = sorted((t.python for t in targets), key=lambda v: [int(n) for n in v.split(".")])
    versions = pythons[0] if len(pythons) == 1 else f"{pythons[0]} to {pythons[-1]}"
    return f"CPython {versions} for {targets[0].architecture} with glibc"


def merged(wheels: Sequence[Path]) -> Tree:
    """The files of these wheels as they would be installed."""
    tree: Tree = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.partition("/")[0].endswith(".data") or name in tree:
                    raise AssertionError(f"{wheel.name}: {name} would need more than unpacking")
                if not name.endswith("/"):
                    tree[name] = archive.read(name)
    return tree


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
    return archive(members, compress=False, prefix=start)


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


if __name__ == "__main__":
    sys.exit(main())
