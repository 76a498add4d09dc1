# SPDX-License-Identifier: MPL-2.0
"""The pinned wheels of requirements/run.txt for one kind of Python, hashes checked by pip."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from packaging.markers import Marker

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
"""CPythons that all pinned wheels exist for."""

ARCHITECTURES = ("x86_64", "aarch64")

_MANYLINUX = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
"""What wheels may ask of the C library: the file then needs glibc 2.28 at most (2018)."""


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


def requirements_for(target: Target, requirements: str) -> str:
    """The lines of a requirements file that hold for `target`, without their conditions.

    pip would judge the conditions by the Python that it runs under.
    """
    return "".join(
        f"{pin}{hashes}\n"
        for pin, condition, hashes in re.findall(
            r"^([^\s;]+)(?: *; *([^\\\n]+?))?( *\\\n(?:[ ]+.*\n?)*)", requirements, re.MULTILINE
        )
        if not condition or Marker(condition).evaluate(_environment(target))
    )


def _environment(target: Target) -> dict[str, str]:
    return {
        "python_version": target.python,
        "python_full_version": f"{target.python}.0",
        "platform_machine": target.architecture,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


def download(target: Target, requirements: Path, cache: Path) -> list[Path]:
    """The wheels for `target`, sorted by name; downloads only if the pins changed. DownloadError."""
    wanted = requirements_for(target, requirements.read_text(encoding="utf-8"))
    digest = hashlib.sha256(wanted.encode()).hexdigest()[:16]
    directory = cache / f"{target.tag}-{digest}"
    complete = directory / "complete"
    if not complete.exists():
        directory.mkdir(parents=True, exist_ok=True)
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
