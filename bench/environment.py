# SPDX-License-Identifier: MPL-2.0
"""The program as an operator installs it: a virtual environment with compiled byte code.

The project's own .venv will not do: there the program is an editable install that finds its
modules through a hook, and whether byte code lies beside them is chance.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "bench"
_REQUIREMENTS = ROOT / "requirements" / "run.txt"


class Installation(NamedTuple):
    """One installed program."""

    python: Path
    program: Path
    """The console script."""
    state: str
    """A digest of the sources it was built from."""


class BrokenInstallationError(Exception):
    """The program could not be installed as it must be to be measured; the text says why."""


def clean_environment() -> dict[str, str]:
    """The environment of this process without what would change how Python starts."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "GRPC_"))}


def prepare() -> Installation:
    """The present sources, installed; builds only if they changed since the last time."""
    venv = BUILD / "venv"
    installation = Installation(venv / "bin/python", venv / "bin/nvidia-vgpu", _source_state())
    stamp = venv / "source-state"
    if not stamp.exists() or stamp.read_text(encoding="ascii") != installation.state:
        print("installing the program into build/bench/venv …", file=sys.stderr, flush=True)
        _build(installation)
        stamp.write_text(installation.state, encoding="ascii")
    _check_byte_code(installation)
    return installation


def _source_state() -> str:
    digest = hashlib.sha256(sys.version.encode())
    sources = [p for p in (ROOT / "src").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    for path in sorted([*sources, _REQUIREMENTS, ROOT / "pyproject.toml"]):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _build(installation: Installation) -> None:
    wheels = BUILD / "wheels"
    for old in wheels.glob("*.whl"):
        old.unlink()
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    install = (str(installation.python), *pip, "install")
    venv = installation.python.parent.parent
    _run(sys.executable, "-m", "venv", "--clear", str(venv))
    _run(*install, "--require-hashes", "-r", str(_REQUIREMENTS))
    # The build backend comes from the project's own environment: nothing more to download.
    build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT))
    _run(sys.executable, *pip, *build)
    _run(*install, "--no-deps", *(str(p) for p in wheels.glob("*.whl")))
    # pip compiles, unless it was told otherwise somewhere (PIP_NO_COMPILE, pip.conf).
    _run(str(installation.python), "-m", "compileall", "-q", str(_site_packages(installation)))


def _run(*command: str) -> None:
    done = subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = f"{done.stdout}{done.stderr}".strip()
        raise BrokenInstallationError(f"{' '.join(command)} failed:\n{said}")


def _site_packages(installation: Installation) -> Path:
    (found,) = (installation.python.parent.parent / "lib").glob("python3*/site-packages")
    return found


def _check_byte_code(installation: Installation) -> None:
    """Refuses to measure a program that compiles itself at each start, or is not the wheel's."""
    asked = (
        "import importlib.util as u, os, sys\n"
        "for name in sys.argv[1:]:\n"
        "    spec = u.find_spec(name)\n"
        "    print(spec.origin, os.path.exists(spec.cached), sep='\\n')\n"
    )
    names = ("nomad_nvidia_vgpu.serve", "nomad_nvidia_vgpu.rpc.device_messages", "grpc", "logging")
    command = (str(installation.python), "-c", asked, *names)
    done = subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, check=True
    )
    lines = done.stdout.split("\n")
    for name, origin, compiled in zip(names, lines[::2], lines[1::2], strict=False):
        if compiled != "True":
            raise BrokenInstallationError(
                f"{name} ({origin}) has no compiled byte code: no start-up time would mean anything"
            )
    if not lines[0].startswith(str(_site_packages(installation))):
        raise BrokenInstallationError(f"the program is imported from {lines[0]}, not the wheel")
