# SPDX-License-Identifier: MPL-2.0
"""Packs what `scripts/gpu-session.sh` needs on a machine without a network, for any Python there.

`build/gpu-carry` gets the wheels of requirements/run.txt and of the packages below, as pinned, one
list of requirements for each Python, and a pip. Installing checks the hashes once more.
"""

from __future__ import annotations

import argparse
import ensurepip
import shutil
import sys
from pathlib import Path

from scripts.pins import REQUIREMENTS, Pin, pins
from scripts.wheels import PYTHONS, DownloadError, Target, download

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "gpu-carry"
FOR_TESTS = (
    *("pytest", "pytest-timeout", "iniconfig", "packaging", "pluggy", "exceptiongroup", "tomli"),
    *("hypothesis", "sortedcontainers"),
)
FOR_INSTALLING = ("hatchling", "editables", "pathspec", "trove-classifiers")
MOST_MIB = 60
"""With the working tree it has to stay below 64."""


def needed(target: Target) -> list[Pin]:
    """What is to be installed there."""
    run = {pin.name for pin in pins((REQUIREMENTS / "run.txt").read_text())}
    wanted = run | set(FOR_TESTS) | set(FOR_INSTALLING)
    every = pins((REQUIREMENTS / "dev.txt").read_text())
    return target.needed(pin for pin in every if pin.name in wanted)


def pack(target: Target) -> None:
    """The wheels for one Python, and their list; DownloadError."""
    chosen = needed(target)
    for wheel in download(target, chosen):
        shutil.copy(wheel, OUT / "wheels")
    listed = OUT / f"requirements-{target.python}.txt"
    listed.write_text("".join(f"{pin.text}\n" for pin in chosen))


def main() -> int:
    """Fills `build/gpu-carry` again; 1 if it holds nothing, or too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pythons", nargs="*", default=list(PYTHONS), help="such as 3.12")
    pythons = parser.parse_args().pythons
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "wheels").mkdir(parents=True)
    for wheel in (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"):
        shutil.copy(wheel, OUT)
    packed = []
    for python in pythons:
        try:
            pack(Target(python, "x86_64"))
            packed.append(python)
        except DownloadError as error:
            print(f"left out Python {python}: {str(error).splitlines()[-1]}", file=sys.stderr)
    size_mib = sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file()) / 2**20
    print(f"{OUT.relative_to(ROOT)}: Python {', '.join(packed) or 'none'}, {size_mib:.1f} MiB")
    if size_mib > MOST_MIB:
        print(f"more than {MOST_MIB} MiB: name fewer Pythons", file=sys.stderr)
    return int(not packed or size_mib > MOST_MIB)


if __name__ == "__main__":
    sys.exit(main())
