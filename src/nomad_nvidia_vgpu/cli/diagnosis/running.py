# SPDX-License-Identifier: MPL-2.0
"""The Nomad agent and the plugin as they run now, by /proc: what they see may differ from a shell."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nomad_nvidia_vgpu.cli.agent.config import AgentConfig
from nomad_nvidia_vgpu.cli.agent.config_file import LABEL
from nomad_nvidia_vgpu.host.files import read_start
from nomad_nvidia_vgpu.host.proc import Proc

LIBRARIES = "LD_LIBRARY_PATH"

_WORDS_BYTES = 1 << 16
_MAPS_BYTES = 1 << 22
_UPTIME_BYTES = 256
_NAME_BYTES = 64
_STEM = "libnvidia-ml.so"
_CLIENTS = {"dev", "dev-connect", "dev-consul", "dev-vault", "client"}
"""Options of an agent's command line that make it a client."""
_BEFORE_PROGRAM = 4
"""Words that may stand before a program's own name: an interpreter and its options."""


class RunningAgent(NamedTuple):
    """The agent that was started with the files that are looked at.

    What it says of itself is known of root's and of our own alone: any user can start a program of
    that name.
    """

    pid: int
    uid: int | None
    """None, here and below: this is not known."""
    client: bool
    """Whether its command line makes it a client."""
    path: str | None = None
    """Where it finds programs."""
    libraries: str | None = None
    """Where it finds libraries first; empty: nowhere else than usual."""
    cgroup: str | None = None
    """Where it stands in systemd's hierarchy."""
    age_s: float | None = None
    """How long it has run."""

    @property
    def unit(self) -> str | None:
        """The systemd service that it is; None if it is none of the system's."""
        names = (self.cgroup or "").split("/")
        if any(name.startswith("user@") or name.endswith(".scope") for name in names):
            return None  # a person's
        return next((name for name in reversed(names) if name.endswith(".service")), None)


class RunningPlugin(NamedTuple):
    """The plugin that this agent has started."""

    pid: int
    library: str | None
    """The libnvidia-ml that it has loaded; None: none."""


class Running(NamedTuple):
    """What runs; None: nothing does, or this user may not know."""

    agent: RunningAgent | None = None
    plugin: RunningPlugin | None = None
    problem: str = ""
    """Why it could not be looked at, in half a sentence."""


NOBODY = Running()


def look_at_running(root: Path, config: AgentConfig | None) -> Running:
    """The agent that reads the files of `config`, and its plugin; `root` is that of /proc.

    Of several agents one of root's. May hang where one of them does.
    """
    if config is None:
        return NOBODY
    proc = Proc(str(root))
    files = {found for path in (config.given, *config.files) for found in _identities(path)}
    pids = [pid for pid in _pids(root) if _reads(root, pid, files)]
    if not pids:
        return NOBODY
    agent = _agent(root, proc, min(pids, key=lambda pid: (proc.user(pid) != 0, pid)))
    if agent.uid not in _believed():
        return Running(agent)
    children = sorted(_children(root, proc, agent.pid), reverse=True)
    plugins = (_plugin(root, pid) for pid in children)
    return Running(agent, next(filter(None, plugins), None))


def _believed() -> tuple[int, int]:
    """Whose processes are what they say: root has the node, and whoever looks is himself."""
    return (0, os.geteuid())


def _agent(root: Path, proc: Proc, pid: int) -> RunningAgent:
    options = _options(_words(root, pid))
    client = any(name in _CLIENTS and value != "false" for name, value in options)
    uid = proc.user(pid)
    if uid not in _believed():
        return RunningAgent(pid, uid, client)
    given = proc.environment(pid, ("PATH", LIBRARIES))
    return RunningAgent(
        pid,
        uid,
        client,
        path=None if given is None else given.get("PATH", os.defpath),
        libraries=None if given is None else given.get(LIBRARIES, ""),
        cgroup=_systemd_cgroup(proc.cgroups(pid) or ""),
        age_s=_age_s(root, proc, pid),
    )


def _age_s(root: Path, proc: Proc, pid: int) -> float | None:
    standing = proc.standing(pid)
    try:
        uptime_s = float(read_start(root / "uptime", _UPTIME_BYTES).split()[0])
    except (OSError, ValueError, IndexError):
        return None
    if standing is None:
        return None
    return max(0.0, uptime_s - standing.identity.started / os.sysconf("SC_CLK_TCK"))


def _plugin(root: Path, pid: int) -> RunningPlugin | None:
    try:
        maps = read_start(root / str(pid) / "maps", _MAPS_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
    if not maps:
        return None  # it has just ended
    paths = (line.split(maxsplit=5)[-1] for line in maps.splitlines())
    return RunningPlugin(pid, next((p for p in paths if _STEM in p.rpartition("/")[2]), None))


def _pids(root: Path) -> list[int]:
    try:
        return [int(entry.name) for entry in root.iterdir() if entry.name.isdigit()]
    except OSError:
        return []


def _children(root: Path, proc: Proc, parent: int) -> Iterator[int]:
    """The plugins that an agent has started."""
    for pid in _pids(root):
        standing = proc.standing(pid)
        if standing is not None and standing.parent == parent:
            words = _words(root, pid)[:_BEFORE_PROGRAM]
            if any(word.rpartition("/")[2] == LABEL for word in words):
                yield pid


def _words(root: Path, pid: int) -> list[str]:
    try:
        line = read_start(root / str(pid) / "cmdline", _WORDS_BYTES)
    except OSError:
        return []  # it has ended
    return line.decode("utf-8", "surrogateescape").split("\0")


def _called_nomad(root: Path, pid: int) -> bool:
    """Whether a program is called so: other command lines are not read, for that may hang."""
    try:
        return read_start(root / str(pid) / "comm", _NAME_BYTES).startswith(b"nomad")
    except OSError:
        return False


def _reads(root: Path, pid: int, files: set[tuple[int, int]]) -> bool:
    """Whether this is an agent of this node that was started with one of these files or folders."""
    if not (_called_nomad(root, pid) and _sees_our_files(root, pid)):
        return False
    words = _words(root, pid)
    if words[1:2] != ["agent"] or not words[0].rpartition("/")[2].startswith("nomad"):
        return False
    configs = [value for name, value in _options(words) if name == "config"]
    places = [root / str(pid) / "cwd" / path for path in configs]
    return any(found in files for place in places for found in _identities(place))


def _sees_our_files(root: Path, pid: int) -> bool:
    """Whether a path means the same to it as to us, and not what somebody in a container chose."""
    try:
        return all(
            (root / str(pid) / link).readlink() == (root / "self" / link).readlink()
            for link in ("ns/mnt", "root")
        )
    except OSError:
        return False


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options of a Go program, each with its value, which may be the next word."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("-"):
            name, equals, value = word.lstrip("-").partition("=")
            yield name, value if equals else following


def _identities(path: Path) -> Iterator[tuple[int, int]]:
    """What this path is, whatever its name, if it is there."""
    try:
        found = path.stat()
    except OSError:
        return
    yield found.st_dev, found.st_ino


def _systemd_cgroup(cgroups: str) -> str | None:
    parts = (line.split(":", 2) for line in cgroups.splitlines() if line.count(":") > 1)
    found = {controllers: path for _number, controllers, path in parts}
    return found.get("name=systemd", found.get(""))
