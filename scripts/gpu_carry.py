# SPDX-License-Identifier: MPL-2.0
"""Packs what `scripts/gpu-session.sh` needs on a machine without a network, for any Python there.

`build/gpu-carry` gets the wheels of requirements/run.txt and of the packages below, as pinned, one
list of requirements for each Python, and a pip. Installing checks the hashes once more.
"""

from __future__ import annotations

import argparse
import ensurepip
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.markers import Marker

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "gpu-carry"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
FOR_TESTS = (
    *("pytest", "pytest-timeout", "iniconfig", "packaging", "pluggy", "exceptiongroup", "tomli"),
    *("hypothesis", "sortedcontainers"),
)
FOR_INSTALLING = ("hatchling", "editables", "pathspec", "trove-classifiers")
MOST_MIB = 60
"""With the working tree it has to stay below 64."""

_GLIBCS = ("2_34", "2_31", "2_28", "2_27", "2_26", "2_24", "2_17", "2_12", "2_5")
_OLD_PLATFORMS = ("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64")


class Pin(NamedTuple):
    """One package of a requirements file."""

    name: str
    text: str
    """With version and hashes, without marker."""
    marker: str
    """When it is needed; empty: always."""


def pins(text: str) -> Iterator[Pin]:
    """What a requirements file pins."""
    for line in text.replace("\\\n", " ").splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)(==\S+)\s*(?:;\s*(.*?))?((?:\s+--hash=\S+)+)\s*$", line)
        if match:
            name, version, marker, hashes = match.groups()
            yield Pin(name, f"{name}{version}{hashes}", (marker or "").strip())


def needed(python: str) -> list[str]:
    """The requirements of that Python on Linux, without markers: pip would judge them by its own."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_python_implementation": "CPython",
    }
    run = {pin.name for pin in pins((ROOT / "requirements" / "run.txt").read_text())}
    wanted = run | set(FOR_TESTS) | set(FOR_INSTALLING)
    return [
        pin.text
        for pin in pins((ROOT / "requirements" / "dev.txt").read_text())
        if pin.name in wanted and (not pin.marker or Marker(pin.marker).evaluate(environment))
    ]


def pack(python: str) -> str:
    """Downloads the wheels for one Python; why that failed, or empty."""
    listed = OUT / f"requirements-{python}.txt"
    listed.write_text("\n".join(needed(python)) + "\n")
    platforms = [f"manylinux_{glibc}_x86_64" for glibc in _GLIBCS] + list(_OLD_PLATFORMS)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--require-hashes", "--only-binary=:all:"),
            *("--implementation", "cp", "--python-version", python),
            *(word for platform in platforms for word in ("--platform", platform)),
            *("--dest", str(OUT / "wheels"), "--requirement", str(listed)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return ""
    listed.unlink()
    return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip failed"


def main() -> int:
    """Fills `build/gpu-carry` anew; 1 if it holds nothing, or too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pythons", nargs="*", default=list(PYTHONS), help="such as 3.12")
    pythons = parser.parse_args().pythons
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "wheels").mkdir(parents=True)
    for wheel in (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"):
        shutil.copy(wheel, OUT)
    failures = {python: problem for python in pythons if (problem := pack(python))}
    for python, problem in failures.items():
        print(f"left out Python {python}: {problem}", file=sys.stderr)
    size_mib = sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file()) / 2**20
    packed = [python for python in pythons if python not in failures]
    print(f"{OUT.relative_to(ROOT)}: Python {', '.join(packed) or 'none'}, {size_mib:.1f} MiB")
    if size_mib > MOST_MIB:
        print(f"more than {MOST_MIB} MiB: name fewer Pythons", file=sys.stderr)
    return int(not packed or size_mib > MOST_MIB)


if __name__ == "__main__":
    sys.exit(main())
