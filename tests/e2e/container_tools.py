# SPDX-License-Identifier: MPL-2.0
"""Docker, podman and NVIDIA's container toolkit: unpacked or built below `build/`, never installed."""

import fcntl
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from e2e import binaries

_BUILD = binaries.REPOSITORY / "build"
_TOOLKIT_MODULE = binaries.REPOSITORY / "tests/e2e/toolkit"
_TOOLKIT = "github.com/NVIDIA/nvidia-container-toolkit"
_PACKAGES = (
    *("docker.io", "containerd", "runc", "libdevmapper1.02.1", "libseccomp2", "busybox-static"),
    *("podman", "conmon", "netavark", "libsubid4", "libgpgme11", "libassuan0"),
)
_TIMEOUT_S = 900


class ContainerTools(NamedTuple):
    """Where the programs are."""

    root: Path
    """Below it: `usr/sbin/dockerd` and the rest of Debian's packages."""
    toolkit: Path
    """`nvidia-container-runtime`, `nvidia-ctk` and `nvidia-cdi-hook`."""

    @property
    def busybox(self) -> Path:
        """A program that needs no library."""
        return self.root / "bin/busybox"

    @property
    def libraries(self) -> Path:
        """What the programs need and a small Debian lacks."""
        return self.root / f"usr/lib/{platform.machine()}-linux-gnu"

    def path(self) -> str:
        """The PATH of a machine that has them."""
        here = (self.toolkit, self.root / "usr/sbin", self.root / "usr/bin")
        return ":".join([*map(str, here), "/usr/sbin:/usr/bin:/sbin:/bin"])


def container_tools() -> ContainerTools:
    """The programs, fetched and built if they are not there; skips, in CI fails, where they can not be."""
    _BUILD.mkdir(exist_ok=True)
    with _alone(_BUILD / "containers.lock"):
        return ContainerTools(_unpacked(), _built())


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keeps other test runs of this checkout out meanwhile."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpacked() -> Path:
    """Debian's packages."""
    made, stamp = _BUILD / "containers", "unpacked-from"
    wanted = "\n".join(_PACKAGES)
    if (made / stamp).exists() and (made / stamp).read_text() == wanted:
        return made
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            pytest.skip(f"docker is unpacked from Debian's packages, and {program} is not there")
    shutil.rmtree(made, ignore_errors=True)
    packages = made / "packages"
    packages.mkdir(parents=True)
    download = ["apt-get", "download", *_PACKAGES]
    if not _done(download, packages):  # on a fresh machine it knows of none
        _done(["apt-get", "update"], packages)
        _must(download, packages)
    for package in packages.glob("*.deb"):
        _must(["dpkg", "-x", str(package), str(made)], made)
    shutil.rmtree(packages)
    (made / stamp).write_text(wanted)
    return made


def _built() -> Path:
    """NVIDIA's toolkit, from the Go module proxy."""
    made, stamp = _BUILD / "toolkit", "made-from"
    wanted = (_TOOLKIT_MODULE / "go.mod").read_text()
    if (made / stamp).exists() and (made / stamp).read_text() == wanted:
        return made
    if shutil.which("go") is None:
        pytest.skip("NVIDIA's container toolkit is built from its Go module, and there is no Go")
    made.mkdir(exist_ok=True)
    (version,) = re.findall(rf"{_TOOLKIT} v(\S+)", wanted)
    told = f"-X {_TOOLKIT}/internal/info.version={version}"  # as NVIDIA's own build does
    build = ["go", "build", "-buildvcs=false", "-ldflags", told, "-o", f"{made}/", "tool"]
    _must(build, _TOOLKIT_MODULE)
    (made / stamp).write_text(wanted)
    return made


def _done(command: list[str], cwd: Path) -> bool:
    return subprocess.run(command, cwd=cwd, capture_output=True, check=False).returncode == 0


def _must(command: list[str], cwd: Path) -> None:
    """AssertionError with what the program said."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
