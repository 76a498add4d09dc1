# SPDX-License-Identifier: MPL-2.0
"""How fast an agent starts with each form the program is given out in: `bench forms`.

Warm is after another start; cold is with nothing of the form, nor of Python's library, in the
page cache; the first is with nothing unpacked yet either.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench import launch, startup
from bench.environment import BUILD, BrokenInstallationError, Installation
from bench.figures import TIMES, Effort, Figure
from scripts import wheels
from scripts.dist import build_wheel
from scripts.onefile import build

_GPUS = 8
_VGPUS = 16
_SELDOM = 5
"""For how many warm launches there is one cold, and one first."""


class Form(NamedTuple):
    """One way to start the program."""

    name: str
    installation: Installation
    files: tuple[Path, ...]
    """What it consists of, folders with all that is below them."""
    environment: Mapping[str, str] = {}
    unpacked: Path | None = None
    """What is not there before its first start, if anything."""


def measure(installation: Installation, effort: Effort) -> list[Figure]:
    """The forms that are given out."""
    try:
        file = single_file(installation)
    except (BrokenInstallationError, wheels.DownloadError) as error:
        return [Figure("single file", None, "", note=str(error).splitlines()[0])]
    return compared(installation, [in_venv(installation), file], effort)


def in_venv(installation: Installation) -> Form:
    """The console script of a virtual environment."""
    return Form("virtual environment", installation, (installation.python.parents[1],))


def single_file(installation: Installation) -> Form:
    """The single file, built from the present sources for the Python of `installation`."""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if running not in wheels.PYTHONS or os.uname().machine not in wheels.ARCHITECTURES:
        raise BrokenInstallationError(f"no single file for Python {running} on this machine")
    out, unpacked = BUILD / "single-file", BUILD / "unpacked"
    out.mkdir(parents=True, exist_ok=True)
    target = wheels.Target(running, os.uname().machine)
    path = build.build_file(out, build.contents(build_wheel(out), [target]))
    environment = {
        "PATH": str(Path(sys.base_prefix) / "bin"),
        "NVIDIA_VGPU_UNPACK_DIR": str(unpacked),
    }
    given = installation._replace(program=path)
    return Form("single file", given, (path, unpacked), environment, unpacked)


def another(installation: Installation, told: str) -> Form:
    """A form that somebody built elsewhere: `NAME=PROGRAM`, or `NAME=PROGRAM,UNPACKED`."""
    name, _, paths = told.partition("=")
    program, *unpacked = (Path(path).resolve() for path in paths.split(","))
    if not os.access(program, os.X_OK):
        raise BrokenInstallationError(f"{told}: {program} is not an executable file")
    given = installation._replace(program=program)
    files = (program.parent if program.with_name("_internal").exists() else program, *unpacked)
    environment = {"PATH": f"{Path(sys.base_prefix) / 'bin'}:{os.defpath}"}
    return Form(name, given, files, environment, unpacked[0] if unpacked else None)


def compared(installation: Installation, forms: Sequence[Form], effort: Effort) -> list[Figure]:
    """The figures of these forms, which take turns with each other and the bare interpreter."""
    bare: list[float] = []
    warm: dict[str, list[float]] = {form.name: [] for form in forms}
    cold: dict[str, list[float]] = {form.name: [] for form in forms}
    first: dict[str, list[float]] = {form.name: [] for form in forms if form.unpacked}
    for number in range(effort.launches):
        for form in forms:
            if number % _SELDOM == 0 and form.unpacked:
                shutil.rmtree(form.unpacked, ignore_errors=True)
                first[form.name].append(_agent_start(form))
            if number % _SELDOM == 0:
                _agent_start(form)
                _evict([*form.files, Path(os.__file__).parent])
                cold[form.name].append(_agent_start(form))
            bare.append(launch.bare_s(installation))
            warm[form.name].append(_agent_start(form))
    return [
        Figure(
            f"{name}: three launches and first fingerprint, {state}",
            median(samples[name]) / median(bare),
            f"{TIMES} bare",
            note=f"{median(samples[name]) * 1e3:.0f} ms",
            samples=tuple(samples[name]),
        )
        for name in (form.name for form in forms)
        for state, samples in (("warm", warm), ("cold", cold), ("nothing unpacked", first))
        if name in samples
    ]


def _agent_start(form: Form) -> float:
    given = launch.simulated(_GPUS, _VGPUS)
    return startup.three_launches(form.installation, given, form.environment)


def _evict(roots: Sequence[Path]) -> None:
    """Takes files out of the page cache, as far as no running program has them mapped."""
    for path in _files(roots):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # what is not on disk yet would stay
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _files(roots: Sequence[Path]) -> Iterator[Path]:
    for root in roots:
        if root.is_file():
            yield root
        for folder, _folders, names in os.walk(root):
            yield from (Path(folder, name) for name in names)
