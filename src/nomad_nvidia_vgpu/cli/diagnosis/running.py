# SPDX-License-Identifier: MPL-2.0
"""The Nomad agent and the plugin as they run now, by /proc: what they see may differ from a shell."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nomad_nvidia_vgpu.cli.agent.config import AgentConfig
from nomad_nvidia_vgpu.cli.agent.config_file import LABEL
from nomad_nvidia_vgpu.host.proc import Proc

LIBRARIES = "LD_LIBRARY_PATH"

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
    try:
        pids = [pid for pid in proc.pids() if _reads(proc, pid, files)]
    except OSError:  # no /proc
        return NOBODY
    if not pids:
        return NOBODY
    agent = _agent(proc, min(pids, key=lambda pid: (proc.user(pid) != 0, pid)))
    if agent.uid not in _believed():
        return Running(agent)
    plugins = (_plugin(proc, pid) for pid in sorted(_children(proc, agent.pid), reverse=True))
    return Running(agent, next(filter(None, plugins), None))


def _believed() -> tuple[int, int]:
    """The uids whose processes are believed: root, who has the node, and our own."""
    return (0, os.geteuid())


def _agent(proc: Proc, pid: int) -> RunningAgent:
    options = _options(proc.words(pid))
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
        age_s=proc.age_s(pid),
    )


def _plugin(proc: Proc, pid: int) -> RunningPlugin | None:
    paths = proc.mapped(pid)
    if paths is None:
        return None
    return RunningPlugin(pid, next((p for p in paths if _STEM in p.rpartition("/")[2]), None))


def _children(proc: Proc, agent: int) -> Iterator[int]:
    """The plugins that an agent has started."""
    for pid in proc.pids():
        if proc.parent(pid) == agent:
            words = proc.words(pid)[:_BEFORE_PROGRAM]
            if any(word.rpartition("/")[2] == LABEL for word in words):
                yield pid


def _reads(proc: Proc, pid: int, files: set[tuple[int, int]]) -> bool:
    """Whether this is an agent of this node that was started with one of these files or folders."""
    # By its name first: other command lines are not read, because that may hang. What a path
    # leads to in a container is what somebody there chose.
    if not ((proc.called(pid) or b"").startswith(b"nomad") and proc.sees_our_files(pid)):
        return False
    words = proc.words(pid)
    if words[1:2] != ["agent"] or not words[0].rpartition("/")[2].startswith("nomad"):
        return False
    configs = [value for name, value in _options(words) if name == "config"]
    places = [Path(proc.root) / str(pid) / "cwd" / path for path in configs]
    return any(found in files for place in places for found in _identities(place))


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
