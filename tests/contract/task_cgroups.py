# SPDX-License-Identifier: MPL-2.0
"""Real processes in real cgroups, named as Nomad names those of its tasks."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import this_run
from typing_extensions import Self

from nomad_nvidia_vgpu.host.proc import Proc

_SLEEP = "import signal, threading; {manner}; print(flush=True); threading.Event().wait()"
POLITE = "signal.signal(signal.SIGTERM, signal.SIG_DFL)"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


class NoCgroupsError(Exception):
    """Cgroups of that version cannot be made here; the text says why."""


def _mount(kind: str) -> Path:
    """Where the hierarchy of cgroup v2, or the freezer's of v1, is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point, (found, _, options) = before.split(" ")[4], after.split(" ")[:3]
        if found == kind and (kind == "cgroup2" or "freezer" in options.split(",")):
            return Path(point)
    raise NoCgroupsError(f"no {kind} hierarchy is mounted")


def _path(version: str, allocation: str) -> Path:
    # A folder for each task: another run could remove a common one before this task is in it.
    own = f"{this_run.CGROUP.format(token=this_run.TOKEN)}-{allocation[:8]}"
    if version == "v2":
        return _mount("cgroup2") / f"{own}.slice/share.slice/{allocation}.train.scope"
    return _mount("cgroup") / f"{own}/{allocation}.train"


class RealTask:
    """The cgroup of one task, and its processes."""

    def __init__(self, directory: Path | None, allocation: str) -> None:
        """It has no processes yet; without a directory they stay in our own cgroup."""
        self.allocation = allocation
        self.processes: list[subprocess.Popen[str]] = []
        self.directory = directory

    @classmethod
    def outside(cls) -> Self:
        """Processes in no cgroup of a task."""
        return cls(None, "none")

    def start(
        self, environment: Mapping[str, str] | None = None, manner: str = POLITE
    ) -> subprocess.Popen[str]:
        """Starts a process in the cgroup, with this environment."""
        process = subprocess.Popen(
            [sys.executable, "-Sc", _SLEEP.format(manner=manner)],
            stdout=subprocess.PIPE,
            text=True,
            env={**this_run.MARK, **(environment or {})},
        )
        self.processes.append(process)
        if self.directory is not None:
            (self.directory / "cgroup.procs").write_text(str(process.pid))
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def end(self) -> None:
        """Ends its processes."""
        for process in self.processes:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def any_task() -> Iterator[RealTask]:
    """A task in a cgroup of the version that can be made here; NoCgroupsError if neither can."""
    with contextlib.ExitStack() as stack:
        try:
            task = stack.enter_context(real_task("v2"))
        except NoCgroupsError:
            task = stack.enter_context(real_task("v1"))
        yield task


@contextlib.contextmanager
def real_task(version: str) -> Iterator[RealTask]:
    """A task in a cgroup of version `v1` or `v2`; NoCgroupsError where there can be none."""
    if not Proc().sees_host_pids():
        raise NoCgroupsError("pids are not the host's here, so that nothing is beyond doubt")
    allocation = str(uuid.uuid4())
    directory = _path(version, allocation)
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise NoCgroupsError(f"{error}: it takes root and a writable hierarchy") from error
    task = RealTask(directory, allocation)
    try:
        yield task
    finally:
        task.end()
        for place in (directory, *directory.parents):
            try:
                place.rmdir()
            except OSError:  # others use it, or it is not ours
                break
