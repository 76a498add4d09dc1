# SPDX-License-Identifier: MPL-2.0
"""`make dist`: our wheel, a single file for each architecture, their bills of materials, and SHA256SUMS.

The same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from nomad_nvidia_vgpu import __version__
from scripts import sbom
from scripts.onefile.build import build_file, contents
from scripts.wheels import ARCHITECTURES, PYTHONS, DownloadError, Target

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.dist", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--architecture", choices=ARCHITECTURES, action="append")
    parser.add_argument("--python", choices=PYTHONS, action="append", help="not all of them")
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    architectures = asked.architecture or ARCHITECTURES
    _progress("building the wheel")
    ours = build_wheel(asked.out)
    wheels: list[dict[Target, list[Path]]] = []
    try:
        for architecture in architectures:
            pythons = asked.python or PYTHONS
            _progress(f"getting the wheels of {architecture} for Python {', '.join(pythons)}")
            wheels.append(contents(ours, [Target(python, architecture) for python in pythons]))
    except DownloadError as error:
        print(error, file=sys.stderr)
        return 1
    every = {target: paths for some in wheels for target, paths in some.items()}
    _progress(f"writing the bill of materials of {ours.name}")
    bills = {ours: sbom.of_wheel(ours, every)}
    for architecture, some in zip(architectures, wheels, strict=True):
        _progress(f"packing the file for {architecture}")
        file = build_file(asked.out, some)
        bills[file] = sbom.of_file(file, some)
    for path, bill in bills.items():
        path.with_name(f"{path.name}.cdx.json").write_text(bill, encoding="utf-8")
    made = sorted(f"{path.name}{suffix}" for path in bills for suffix in ("", ".cdx.json"))
    print(write_sums(asked.out, made), end="", flush=True)
    _progress(f"done, in {asked.out}")
    return 0


def _progress(step: str) -> None:
    """Names the step that begins; standard output has the sums alone."""
    print(f"dist: {step}", file=sys.stderr, flush=True)


def build_wheel(out: Path, source: Path = ROOT) -> Path:
    """The wheel of `source`, which hatchling makes reproducible; CalledProcessError."""
    path = out / f"nomad_nvidia_vgpu-{__version__}-py3-none-any.whl"
    path.unlink(missing_ok=True)
    command = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "wheel")
    options = ("--no-deps", "--no-build-isolation", f"--wheel-dir={out}")
    environment = {k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"}
    subprocess.run((*command, *options, str(source)), env=environment, check=True)
    return path


def write_sums(out: Path, names: Sequence[str]) -> str:
    """SHA256SUMS of these files in `out`, as `sha256sum -c` reads it."""
    digests = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}
    text = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    (out / "SHA256SUMS").write_text(text, encoding="ascii")
    return text


if __name__ == "__main__":
    sys.exit(main())
