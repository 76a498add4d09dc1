# SPDX-License-Identifier: MPL-2.0
"""Which task a process belongs to, told by the cgroup it is in.

Nomad and the container engines make one cgroup per task, and a process cannot leave its own
without being root:

| driver | cgroup v2 | cgroup v1 (freezer, memory, cpu; for exec all but cpuset) |
|---|---|---|
| raw_exec, exec, java | `/nomad.slice/share.slice/<allocation>.<task>.scope` (`reserve.slice` for a task with cores of its own) | `/nomad/<allocation>.<task>` |
| the same, by Nomad before 1.7 | `/nomad.slice/<allocation>.<task>.scope` | `/nomad/<random UUID>` |
| docker | `…/docker-<id>.scope` or `/docker/<id>` | `…/docker/<id>` |
| podman | `…/libpod-<id>.scope` | `…/libpod-<id>` |

The name of Nomad's part can be configured, so only its shape counts. Of several such names in
one path the outermost counts, because what runs there can make more within it; but a cgroup
that holds this program too is not a task's. Where a user may make cgroups (`user.slice`), no name
means anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from heapq import nsmallest
from itertools import islice
from typing import NamedTuple

from nomad_nvidia_vgpu.host.proc import Identity, Proc

_ALLOCATION = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NOMAD_V2 = re.compile(rf"(?P<allocation>{_ALLOCATION})\.(?P<task>.+)\.scope", re.DOTALL)
_NOMAD_V1 = re.compile(rf"(?P<allocation>{_ALLOCATION})\.(?P<task>.+)", re.DOTALL)
_NOMAD_OLD_V1 = re.compile(rf"(/[^/]+/(?P<container>{_ALLOCATION}))(?:/.*)?", re.DOTALL)
"""The whole path: a UUID says less than the other names do."""
_CONTAINER = re.compile(
    r"(?:(?:docker|libpod|nerdctl|cri-containerd|crio)-)?(?P<container>[0-9a-f]{64})(?:\.scope)?"
)
_UNIFIED = ""
_PREFERRED = (_UNIFIED, "freezer", "pids", "memory", "cpu")
"""Where to look for the members of a task's cgroup: not every controller has one for each task."""
_MOST_CGROUPS = 500
"""Of one task: a container that may make cgroups of its own could make them without end."""
_OF_TASKS = "NOMAD_ALLOC_ID"
"""What the environment of every task has."""
_ESCAPED = re.compile(r"\\([0-7]{3})")


class Name(NamedTuple):
    """What the name of a cgroup says."""

    allocation: str | None = None
    task: str | None = None
    container: str | None = None
    """Also what a Nomad before 1.7 calls the task of an executor."""


class TaskCgroup(NamedTuple):
    """The cgroup of one task, or of one container."""

    name: Name
    controller: str
    """By which its members are found; empty for the unified hierarchy of cgroup v2."""
    path: str
    """Within that hierarchy, up to what names the task; what lies below is the task's own."""

    @property
    def key(self) -> str:
        """What tells it from all others, as text."""
        return f"{self.controller}:{self.path}"


def task_cgroup(lines: str, own: str = "") -> TaskCgroup | None:
    """The task's cgroup that a process with these lines in `/proc/<pid>/cgroup` is in.

    `own` are the lines of this program. None: it is in none, or in those of two tasks at once.
    """
    ours = dict(_hierarchies(own))
    found: dict[str, TaskCgroup] = {}
    for controllers, path in _hierarchies(lines):
        named = _named(controllers, path, ours.get(controllers, ""))
        if named is not None:
            found.update((controller, named) for controller in controllers.split(","))
    if len({cgroup.name for cgroup in found.values()}) != 1:
        return None
    best = next((c for c in _PREFERRED if c in found), min(found))
    return found[best]._replace(controller=best)


def _hierarchies(lines: str) -> Iterator[tuple[str, str]]:
    """The controllers and the path in each hierarchy."""
    # Not splitlines: a name may hold all that this would split at, except for the line feed.
    for line in lines.split("\n"):
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon:
            yield controllers, path


def _named(controllers: str, path: str, own: str) -> TaskCgroup | None:
    parts = path.split("/")
    if "user.slice" in parts:
        return None
    own_parts = own.split("/")
    old = None if controllers == _UNIFIED else _NOMAD_OLD_V1.fullmatch(path)
    if old and parts[:3] != own_parts[:3]:
        return TaskCgroup(Name(container=old["container"]), controllers, old[1])
    for depth, part in enumerate(parts, 1):
        name = _name(part, unified=controllers == _UNIFIED)
        if name is not None and parts[:depth] != own_parts[:depth]:
            return TaskCgroup(name, controllers, "/".join(parts[:depth]))
    return None


def _name(part: str, *, unified: bool) -> Name | None:
    nomad = (_NOMAD_V2 if unified else _NOMAD_V1).fullmatch(part)
    if nomad:
        return Name(nomad["allocation"], nomad["task"])
    container = _CONTAINER.fullmatch(part)
    return Name(container=container["container"]) if container else None


class Members:
    """Finds the members of cgroups, in the hierarchies that are mounted here."""

    def __init__(self, proc: Proc) -> None:
        """Looks for the mounts once."""
        self._proc = proc
        self._mounts: dict[str, tuple[str, str]] = {}
        for controller, place in _mounts(proc.mounts().split("\n")):
            self._mounts.setdefault(controller, place)  # later ones are those of containers

    def oldest(self, cgroup: TaskCgroup) -> Identity | None:
        """The process of a task that was started first; None: it has none, or they are not told."""
        standings = filter(None, map(self._proc.standing, self._pids(cgroup)))
        first = nsmallest(
            2, standings, key=lambda standing: (standing.identity.started, standing.identity.pid)
        )
        if not first:
            return None
        oldest = first[0].identity
        if first[1:] and first[1].parent == oldest.pid and self._is_executor(oldest.pid):
            return first[1].identity
        return oldest

    def _is_executor(self, pid: int) -> bool:
        """Whether this is what Nomad starts a task by: before 1.7 it goes into the task's cgroup.

        It has the agent's environment. A task that makes its first process look like it is asked
        for what its second says, and could have said that by the first.
        """
        environment = self._proc.environment(pid, (_OF_TASKS,))
        return environment is not None and not environment

    def _pids(self, cgroup: TaskCgroup) -> Iterator[int]:
        directory = self._directory(cgroup)
        if directory is None:
            return
        for place, _, files in islice(os.walk(directory), _MOST_CGROUPS):
            if "cgroup.procs" not in files:
                continue
            try:
                with open(os.path.join(place, "cgroup.procs"), encoding="ascii") as members:  # noqa: PTH118, PTH123  many small reads
                    text = members.read()
            except OSError:
                continue  # it has just been removed
            yield from (int(word) for word in text.split() if word.isdigit() and word != "0")

    def _directory(self, cgroup: TaskCgroup) -> str | None:
        point, root = self._mounts.get(cgroup.controller, (None, ""))
        if point is None or ".." in cgroup.path.split("/"):
            return None
        inner = cgroup.path
        if root != "/":
            if not f"{inner}/".startswith(f"{root}/"):
                return None
            inner = inner[len(root) :]
        return point + inner


def _mounts(lines: Iterable[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """For each controller: where its hierarchy is mounted, and which part of it that shows."""
    for line in lines:
        before, _, after = line.partition(" - ")
        match before.split(" "), after.split(" "):
            case [_, _, _, root, point, *_], [kind, _, options] if kind in ("cgroup", "cgroup2"):
                place = (_unescaped(point), _unescaped(root))
                names = [_UNIFIED] if kind == "cgroup2" else options.split(",")
                yield from ((name, place) for name in names)


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
