# SPDX-License-Identifier: MPL-2.0
"""Docker: whether its tasks get the GPUs that they are given, and no others.

dockerd itself is asked, and Nomad; files say only what to change
(docs/internals/containers.md#how-a-container-gets-its-gpu).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from nomad_nvidia_vgpu.cli.diagnosis import check_containers
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Verdict, error, ok, warning

NVIDIAS = "nvidia"
"""What Nomad calls the runtime, unless the agent's block for docker says otherwise."""

_CONFIGURE = "nvidia-ctk runtime configure --runtime=docker, then systemctl restart docker"
_VOID = 'env { NVIDIA_VISIBLE_DEVICES = "void" }'
_MOST_NAMED = 3


def docker(facts: Facts) -> Iterator[Verdict]:
    """Whether docker tasks get their GPUs, and see no others."""
    runtimes = facts.docker.runtimes
    names = facts.nomad.docker_runtimes if runtimes is None else runtimes
    if names is None:
        yield _silent(facts) if _has_dockerd(facts) else ok("dockerd is not on this node")
        return
    if facts.config.device_nodes != "cdi":
        yield from _runtime(facts, names)
    yield from _seen_by_all(facts, names)


def _silent(facts: Facts) -> Verdict:
    """Neither dockerd nor Nomad says anything about it."""
    asked = f"{facts.docker.socket} {facts.docker.problem}"
    _, problem = _settings(facts)
    if problem:
        return error(f"{asked}, and {problem}", "fix it: dockerd does not start with it")
    return warning(
        f"dockerd is on this node, {asked}, and Nomad knows no docker here: it runs no docker tasks",
        'systemctl start docker; as another user than root run this as root; of another socket say endpoint in plugin "docker"',
    )


def _runtime(facts: Facts, names: Collection[str]) -> Iterator[Verdict]:
    """Whether there is the runtime that Nomad demands for our variable."""
    wanted = _wanted(facts)
    program = (facts.docker.runtimes or {}).get(wanted)
    if wanted not in names:
        settings, _ = _settings(facts)
        waiting = wanted in (settings.get("runtimes") or {})
        yield warning(
            f'dockerd runs without a runtime "{wanted}", so docker tasks with a vGPU fail:'
            f' requested docker runtime "{wanted}" was not found',
            f"systemctl restart docker: {_daemon_json(facts)} names it since dockerd has started"
            if waiting
            else f"install NVIDIA's container toolkit; {_CONFIGURE}",
        )
    elif not _allows(facts, wanted):
        yield error(
            f'allow_runtimes in plugin "docker" leaves out "{wanted}", so Nomad refuses every docker'
            " task with a vGPU",
            f'add "{wanted}" to it, or set device_nodes = "cdi", which needs no runtime of NVIDIA\'s',
        )
    elif program is not None and not _there(facts, program):
        yield error(
            f'dockerd\'s runtime "{wanted}" is {program}, which is not there',
            f"install NVIDIA's container toolkit; {_CONFIGURE}",
        )
    else:
        yield ok(f'dockerd runs with the runtime "{wanted}" ({program or "as Nomad says"})')


def _seen_by_all(facts: Facts, names: Collection[str]) -> Iterator[Verdict]:
    """Whether containers see GPUs that were not granted to them."""
    default, by_files = facts.docker.default_runtime, facts.config.device_nodes == "cdi"
    if default is None:
        yield warning(
            "dockerd cannot be asked for its default runtime, by which all containers could see all"
            f" GPUs: {facts.docker.socket} {facts.docker.problem}",
            "run this command as root",
        )
    elif _is_nvidias(facts, default) and by_files:
        yield error(
            f'dockerd\'s default runtime is "{default}": beside the device files of its reservation a'
            " container sees every GPU that its image asks for, and NVIDIA's images ask for all",
            f"{_undefault(facts, default)}; where that cannot be, write {_VOID} in every job",
        )
    elif _is_nvidias(facts, default):
        yield warning(
            f'dockerd\'s default runtime is "{default}", so a job without a device block can take'
            " every GPU by NVIDIA_VISIBLE_DEVICES=all, which NVIDIA's images have",
            f"{_undefault(facts, default)}: Nomad asks for the runtime where it needs it",
        )
    elif by_files and any(_is_nvidias(facts, name) and _allows(facts, name) for name in names):
        yield warning(
            'a job can name the runtime "nvidia" and see every GPU, and with device_nodes = "cdi" none'
            " needs it",
            'write allow_runtimes = ["runc"] in plugin "docker"',
        )
    elif by_files:
        yield ok(
            f'dockerd\'s default runtime is "{default}": containers see the device files of their'
            " reservation alone"
        )


def cgroups(facts: Facts) -> Iterator[Verdict]:
    """Whether running containers keep their GPUs when systemd reads its units again."""
    made_by = facts.docker.cgroup_driver
    if made_by is None:
        if not _has_dockerd(facts):
            yield ok("dockerd is not on this node")
        return
    if made_by != "systemd":
        yield ok(f"docker's cgroups are made by {made_by}: systemctl daemon-reload leaves them")
        return
    lost = "systemctl daemon-reload takes the GPUs from running containers (docker's cgroups are systemd's)"
    otherwise = '"exec-opts": ["native.cgroupdriver=cgroupfs"] in daemon.json'
    unlinked = _unlinked(facts.node.dev)
    by_hook = facts.config.device_nodes != "cdi" and check_containers.adds_devices_late(facts)
    if unlinked:
        more = len(unlinked) - _MOST_NAMED
        named = ", ".join(unlinked[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        yield warning(
            f"{lost}: {facts.node.dev}/char has no link to {named}",
            f"nvidia-ctk system create-dev-char-symlinks --create-all, at every boot; or {otherwise}",
        )
    if by_hook:
        yield warning(
            f"{lost}: NVIDIA's container runtime adds them behind systemd's back",
            f"use NVIDIA's container toolkit 1.18 or newer, not in its legacy mode; or {otherwise}",
        )
    if not unlinked and not by_hook:
        yield ok("systemd knows the GPUs of containers, and finds them after a daemon-reload")


def _unlinked(dev: Path) -> list[str]:
    """The device files of GPUs that systemd does not find by their numbers."""
    found = []
    for file in sorted([*dev.glob("nvidia*"), *dev.glob("nvidia-caps/*")]):
        try:
            status = file.stat()
        except OSError:
            continue
        if stat.S_ISCHR(status.st_mode):
            number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
            if not (dev / "char" / number).exists():
                found.append(str(file))
    return found


def _wanted(facts: Facts) -> str:
    return str(_block(facts).get("nvidia_runtime") or NVIDIAS)


def _allows(facts: Facts, runtime: str) -> bool:
    allowed = _block(facts).get("allow_runtimes")
    return runtime in allowed if isinstance(allowed, list) else runtime in ("runc", NVIDIAS)


def _block(facts: Facts) -> Mapping[str, Any]:
    agent = facts.configured.agent
    found = agent.block_of("docker") if agent is not None else None
    return found.options if found is not None else {}


def _is_nvidias(facts: Facts, runtime: str) -> bool:
    program = (facts.docker.runtimes or {}).get(runtime, "")
    return runtime == _wanted(facts) or Path(program).name.startswith(check_containers.PROGRAM)


def _there(facts: Facts, program: str) -> bool:
    if program.startswith("/"):
        return Path(program).exists()
    return facts.which(program) is not None


def _undefault(facts: Facts, default: str) -> str:
    """How to have dockerd without that default."""
    settings, _ = _settings(facts)
    if settings.get("default-runtime") == default:
        return f'take "default-runtime" out of {_daemon_json(facts)} and restart docker'
    return (
        f"start dockerd without the default runtime {default}: {_daemon_json(facts)} does not name it,"
        " so its unit or another --config-file does, or it has not been restarted since"
    )


def _settings(facts: Facts) -> tuple[Mapping[str, Any], str]:
    """What dockerd's usual file says; or what is wrong with it, as half a sentence."""
    path = _daemon_json(facts)
    try:
        settings = json.loads(path.read_text())
    except OSError:
        return {}, ""
    except (ValueError, RecursionError) as why:
        return {}, f"{path} is not valid JSON: {why}"
    return (settings if isinstance(settings, dict) else {}), ""


def _daemon_json(facts: Facts) -> Path:
    return facts.node.etc / "docker/daemon.json"


def _has_dockerd(facts: Facts) -> bool:
    files = (Path(facts.docker.socket), _daemon_json(facts))
    return facts.which("dockerd") is not None or any(file.exists() for file in files)
