# SPDX-License-Identifier: MPL-2.0
"""A `/proc` and a hierarchy of cgroups made of plain files."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path

from nomad_nvidia_vgpu.host.proc import Proc
from unit.manual_clock import DEADLINE_S

HOST_PIDS = "pid:[4026531836]"
ALLOCATION = "11111111-2222-3333-4444-555555555555"
OTHER_ALLOCATION = "99999999-8888-7777-6666-555555555555"
CONTAINER = "c0ffee" + "0" * 58
PLUGIN = 1
PATIENCE_S = 2.0
"""For environments: short for the tests of stuck processes, long for all that are read."""


def nomad_v2(allocation: str = ALLOCATION, task: str = "train") -> str:
    """Gives the line of a task of Nomad's own under cgroup v2."""
    return f"0::/nomad.slice/share.slice/{allocation}.{task}.scope\n"


def nomad_v1(allocation: str = ALLOCATION, task: str = "train") -> str:
    """Gives the lines of a raw_exec task under cgroup v1."""
    named = f"/nomad/{allocation}.{task}"
    return f"9:name=systemd:/\n6:freezer:{named}\n4:memory:{named}\n3:cpuset:/nomad/share\n0::/\n"


def old_nomad_v1(container: str = OTHER_ALLOCATION) -> str:
    """Gives the lines of a raw_exec task under cgroup v1, of a Nomad before 1.7."""
    return f"9:name=systemd:/\n6:freezer:/nomad/{container}\n4:memory:/\n0::/\n"


def docker_v2(container: str = CONTAINER) -> str:
    """Gives the line of a container of docker under cgroup v2."""
    return f"0::/system.slice/docker-{container}.scope\n"


class MadeProc:
    """Processes and cgroups that a test makes and ends."""

    def __init__(self, root: Path, *, pid_namespace: str = HOST_PIDS, own: str = "0::/\n") -> None:
        """An empty node except for this program, which is in the cgroup `own`."""
        self.root = root / "proc"
        self.cgroups = root / "cgroup"
        self.root.mkdir(parents=True)
        self._in: dict[int, list[Path]] = {}
        self.add(PLUGIN, cgroup=own, parent=0)
        (self.root / "self").symlink_to(str(PLUGIN))
        (self.root / f"{PLUGIN}/ns").mkdir()
        (self.root / f"{PLUGIN}/ns/pid").symlink_to(pid_namespace)
        (self.root / f"{PLUGIN}/mountinfo").write_text(
            f"31 23 0:28 / {self.cgroups} rw - tmpfs tmpfs rw,mode=755\n"
            f"32 31 0:29 / {self.cgroups}/freezer rw - cgroup cgroup rw,freezer\n"
            f"33 31 0:30 / {self.cgroups}/memory rw - cgroup cgroup rw,memory\n"
            f"34 31 0:31 / {self.cgroups}/unified rw - cgroup2 cgroup2 rw\n"
        )

    @property
    def proc(self) -> Proc:
        """Reads it."""
        return Proc(str(self.root), PATIENCE_S)

    def add(  # noqa: PLR0913  what a process is
        self,
        pid: int,
        *,
        started: int = 100,
        cgroup: str = "0::/\n",
        environment: Mapping[str, str] | None = None,
        parent: int = 1,
        name: str = "python",
        user: int = 1000,
    ) -> None:
        """Starts a process, or starts another one with this pid."""
        self.end(pid)
        place = self.root / str(pid)
        place.mkdir()
        fields = ["S", str(parent), *["0"] * 17, str(started), "0", "0"]
        (place / "stat").write_text(f"{pid} ({name[:15]}) {' '.join(fields)}\n")
        (place / "status").write_text(f"Name:\t{name}\nUid:\t{user}\t0\t0\t0\nGid:\t7\t7\t7\t7\n")
        (place / "cgroup").write_text(cgroup)
        self.change_environment(pid, environment or {})
        for line in cgroup.splitlines():
            _, controllers, path = line.split(":", 2)
            hierarchy = controllers.split(",")[0] or "unified"
            members = self.cgroups / hierarchy / path.lstrip("/") / "cgroup.procs"
            members.parent.mkdir(parents=True, exist_ok=True)
            with members.open("a") as listed:
                listed.write(f"{pid}\n")
            self._in.setdefault(pid, []).append(members)

    def change_environment(self, pid: int, environment: Mapping[str, str]) -> None:
        """Gives a process another environment, as one that executes another program has."""
        text = "".join(f"{name}={value}\0" for name, value in environment.items())
        (self.root / str(pid) / "environ").write_text(text)

    def get_stuck(self, pid: int) -> None:
        """Lets whoever reads the environment of a process hang."""
        place = self.root / str(pid) / "environ"
        place.unlink()
        os.mkfifo(place)

    def get_going(self, pid: int, environment: Mapping[str, str]) -> None:
        """Lets it be read again; returns when all who hung on it have gone on."""
        place = self.root / str(pid) / "environ"
        hanging = [thread for thread in threading.enumerate() if thread.name == "environ"]
        os.close(os.open(place, os.O_WRONLY | os.O_NONBLOCK))
        for thread in hanging:
            thread.join(DEADLINE_S)
        place.unlink()
        self.change_environment(pid, environment)

    def end(self, pid: int) -> None:
        """Ends a process if there is one."""
        shutil.rmtree(self.root / str(pid), ignore_errors=True)
        for members in self._in.pop(pid, []):
            left = [line for line in members.read_text().splitlines() if line != str(pid)]
            members.write_text("".join(f"{line}\n" for line in left))
