# SPDX-License-Identifier: MPL-2.0
"""The Nomad agent and the plugin as they run now, by /proc: what they see may differ from a shell."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nomad_nvidia_vgpu.cli.agent_config import AgentConfig
from nomad_nvidia_vgpu.cli.config_file import LABEL
from nomad_nvidia_vgpu.device.proc import Proc
from nomad_nvidia_vgpu.node_files import read_start

LIBRARIES = "LD_LIBRARY_PATH"

_WORDS_BYTES = 1 << 16
_MAPS_BYTES = 1 << 22
_UPTIME_BYTES = 256
_STEM = "libnvidia-ml.so"
_CLIENTS = {"dev", "dev-connect", "dev-consul", "dev-vault", "client"}
"""Options of an agent's command line that make it a client."""
_BEFORE_PROGRAM = 4
"""Words that may stand before a program's own name: an interpreter and its options."""


class RunningAgent(NamedTuple):
    """The agent that was started with the files that are looked at."""

    pid: int
    uid: int | None
    """None, here and below: this user may not know."""
    client: bool
    """Whether its command line makes it a client."""
    path: str | None = None
    """Where it finds programs."""
    libraries: str | None = None
    """Where it finds libraries first; empty: nowhere else than usual."""
    unit: str | None = None
    """The systemd service that it is; None also if it is none."""
    age_s: float | None = None
    """How long it has run."""


class RunningPlugin(NamedTuple):
    """The plugin that this agent has started."""

    pid: int
    library: str | None
    """The libnvidia-ml that it has loaded; None: none."""


class Running(NamedTuple):
    """What runs; None: nothing does, or this user may not know."""

    agent: RunningAgent | None = None
    plugin: RunningPlugin | None = None


NOBODY = Running()


def look_at_running(root: Path, config: AgentConfig | None) -> Running:
    """The agent that reads the files of `config`, and its plugin; `root` is that of /proc.

    Of several agents one of root's, for any user can start a program of that name. May hang, as
    all that reads command lines.
    """
    if config is None:
        return NOBODY
    proc = Proc(str(root))
    lines = dict(_command_lines(root))
    files = {found for path in (config.given, *config.files) for found in _identities(path)}
    pids = [pid for pid, words in lines.items() if _reads(root / str(pid), words, files)]
    agents = sorted(pids, key=lambda pid: (proc.user(pid) != 0, pid))
    if not agents:
        return NOBODY
    pid = agents[0]
    children = [
        one
        for one, words in lines.items()
        if any(word.rpartition("/")[2] == LABEL for word in words[:_BEFORE_PROGRAM])
        and (standing := proc.standing(one)) is not None
        and standing.parent == pid
    ]
    plugins = (_plugin(root, one) for one in sorted(children, reverse=True))
    return Running(_agent(root, proc, pid, lines[pid]), next(filter(None, plugins), None))


def _agent(root: Path, proc: Proc, pid: int, words: Sequence[str]) -> RunningAgent:
    given = proc.environment(pid, ("PATH", LIBRARIES))
    return RunningAgent(
        pid,
        proc.user(pid),
        client=any(name in _CLIENTS and value != "false" for name, value in _options(words)),
        path=None if given is None else given.get("PATH", os.defpath),
        libraries=None if given is None else given.get(LIBRARIES, ""),
        unit=_unit(proc.cgroups(pid) or ""),
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


def _command_lines(root: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        entries = [entry for entry in root.iterdir() if entry.name.isdigit()]
    except OSError:
        return
    for entry in entries:
        try:
            line = read_start(entry / "cmdline", _WORDS_BYTES).decode("utf-8", "surrogateescape")
        except OSError:
            continue  # it has ended
        yield int(entry.name), line.split("\0")


def _reads(process: Path, words: Sequence[str], files: set[tuple[int, int]]) -> bool:
    """Whether this is an agent that was started with one of these files or folders."""
    if words[1:2] != ["agent"] or not words[0].rpartition("/")[2].startswith("nomad"):
        return False
    configs = [value for name, value in _options(words) if name == "config"]
    # As that process finds them: it may have another root.
    places = [
        process / ("root" if path.startswith("/") else "cwd") / path.lstrip("/") for path in configs
    ]
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


def _unit(cgroups: str) -> str | None:
    for line in cgroups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers in ("", "name=systemd"):
            for name in reversed(path.split("/")):
                if name.endswith(".service"):
                    return name
    return None
