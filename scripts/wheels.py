# SPDX-License-Identifier: MPL-2.0
"""The pinned wheels for one kind of Python, whichever runs here; pip checks their hashes."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from packaging.markers import Marker

from scripts.pins import Pin

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
"""CPythons that all pinned wheels exist for."""

ARCHITECTURES = ("x86_64", "aarch64")

CACHE = Path(__file__).resolve().parents[1] / "build" / "wheels"

_MANYLINUX = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
"""What wheels may ask of the C library: they then need glibc 2.28 at most (2018)."""


class DownloadError(Exception):
    """pip cannot get a wheel; the text says why."""


class Target(NamedTuple):
    """One kind of Python."""

    python: str
    """Such as 3.11."""
    architecture: str

    @property
    def tag(self) -> str:
        """What it calls its compiled modules."""
        return f"cpython-{self.python.replace('.', '')}-{self.architecture}-linux-gnu"

    def meets(self, marker: Marker | None) -> bool:
        """Whether it needs what is needed under this condition, if no extra is asked for."""
        environment = {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "platform_machine": self.architecture,
            "platform_system": "Linux",
            "sys_platform": "linux",
            "os_name": "posix",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "extra": "",
        }
        return marker is None or marker.evaluate(environment)

    def needed(self, pins: Iterable[Pin]) -> list[Pin]:
        """The pins that hold for it."""
        return [pin for pin in pins if self.meets(Marker(pin.marker) if pin.marker else None)]


def download(target: Target, pins: Sequence[Pin]) -> list[Path]:
    """The wheels for `target`, sorted by name; downloads only if the pins changed. DownloadError.

    All pins have to hold for it.
    """
    wanted = "".join(f"{pin.text}\n" for pin in pins)
    digest = hashlib.sha256(wanted.encode()).hexdigest()[:16]
    directory = CACHE / f"{target.tag}-{digest}"
    complete = directory / "complete"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests of several processes ask for the same wheels
        if not complete.exists():
            listed = directory / "requirements.txt"
            listed.write_text(wanted, encoding="utf-8")
            _pip_download(target, listed, directory)
            complete.touch()
    return sorted(directory.glob("*.whl"))


def _pip_download(target: Target, listed: Path, directory: Path) -> None:
    platforms = (f"--platform={name}_{target.architecture}" for name in _MANYLINUX)
    command = (
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download"),
        *("--no-deps", "--require-hashes", "--only-binary=:all:", "--implementation=cp"),
        *(f"--python-version={target.python}", *platforms),
        *(f"--dest={directory}", f"--requirement={listed}"),
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DownloadError(f"no wheels for {target.tag}:\n{done.stdout}{done.stderr}".rstrip())
