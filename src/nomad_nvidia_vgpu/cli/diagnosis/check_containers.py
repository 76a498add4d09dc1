# SPDX-License-Identifier: MPL-2.0
"""NVIDIA's container toolkit and podman: whether containers get the GPUs that they are given."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from nomad_nvidia_vgpu.cdi.delivery import generate
from nomad_nvidia_vgpu.cli.diagnosis import check_cdi
from nomad_nvidia_vgpu.cli.diagnosis.check_gpus import counted
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Verdict, error, ok, warning
from nomad_nvidia_vgpu.host.toolkit import (
    VERSION_COMMAND,
    Toolkit,
    has_unified_cgroups,
    version_in,
)
from nomad_nvidia_vgpu.sharing import container_limit

PROGRAM = "nvidia-container-runtime"

_FOR_PODMAN = "/etc/cdi/nvidia.yaml"
_ENVVAR = "accept-nvidia-visible-devices-envvar-when-unprivileged"
_MOUNTS = "accept-nvidia-visible-devices-as-volume-mounts"
_BY_CDI = (1, 18)
"""Since then the toolkit adds devices to what runc is told."""
_SETTING = re.compile(r"^\s*([a-z-]+)\s*=\s*\"?([^\"#\n]*?)\"?\s*(?:#.*)?$", re.MULTILINE)


def toolkit(facts: Facts) -> Iterator[Verdict]:
    """Whether NVIDIA's container runtime gives containers the GPUs that their variable names."""
    path = _config(facts)
    try:
        given = _toolkit_settings(facts)
    except (OSError, UnicodeDecodeError) as why:
        yield warning(f"{path} cannot be read: {why}", "run this command as root")
        return
    if given is None:
        there = facts.which(PROGRAM) is not None
        how = "as it was delivered" if there else "not on this node"
        yield ok(f"NVIDIA's container runtime is {how}")
        return
    found = [*_more_than_granted(path, given)]
    refuses = given.get(_ENVVAR) == "false"
    if facts.config.device_nodes != "cdi":
        found += _less_than_granted(path, given)
    yield from found or [
        ok(
            f"NVIDIA's container runtime takes {'no ' if refuses else ''}GPUs from the environment ({path})"
        )
    ]


def _less_than_granted(path: Path, given: Mapping[str, str]) -> Iterator[Verdict]:
    """What keeps a container from the GPUs that its variable names."""
    if given.get(_ENVVAR) == "false":
        yield error(
            f"{path} has {_ENVVAR} = false, so NVIDIA_VISIBLE_DEVICES is refused to containers that"
            " are not privileged",
            "set it to true: Nomad hands GPUs to containers by that variable alone",
        )
    elif given.get("no-cgroups") == "true":
        yield warning(
            f"{path} has no-cgroups = true, so containers may not open their GPUs",
            "set it to false, unless dockerd is rootless",
        )


def _more_than_granted(path: Path, given: Mapping[str, str]) -> Iterator[Verdict]:
    """Ways to name GPUs that a reservation does not set, and so cannot fence."""
    if given.get(_MOUNTS) == "true":
        yield warning(
            f"{path} has {_MOUNTS} = true, so a job that may mount can name every GPU by a mount",
            "set it to false, unless another orchestrator on this node needs it",
        )
    if resource := given.get("swarm-resource"):
        yield warning(
            f"{path} has swarm-resource = {resource}, so a job can name every GPU by that variable,"
            " which wins over the reservation's",
            "take it out, unless docker swarm on this node needs it",
        )


def adds_devices_late(facts: Facts) -> bool:
    """Whether the toolkit adds devices by a hook, after the container's cgroup was made."""
    try:
        mode = (_toolkit_settings(facts) or {}).get("mode", "auto")
    except (OSError, UnicodeDecodeError):
        return False
    version = _version(facts)
    return mode == "legacy" or (mode == "auto" and version is not None and version < _BY_CDI)


def memory_limits(facts: Facts) -> Iterator[Verdict]:
    """Whether the driver can hold containers to their share, if it is to (`memory_isolation`)."""
    known = Toolkit(_version(facts), has_unified_cgroups(facts.node.sys))
    problems = container_limit.lacking(facts.config, known)
    if facts.config.memory_isolation != container_limit.CGROUP:
        could = "could not" if problems else "could"
        yield ok(f'memory_isolation is "none"; toolkit and kernel of this node {could} do "cgroup"')
        return
    for problem in problems:
        yield warning(problem.sentence, problem.remedy)
    if not problems:
        yield ok("toolkit and kernel let the driver hold containers to their share")


def _version(facts: Facts) -> tuple[int, ...] | None:
    try:
        return version_in(facts.output(VERSION_COMMAND))
    except OSError:
        return None


def _toolkit_settings(facts: Facts) -> Mapping[str, str] | None:
    """The settings that are not commented out; None: there is no file. OSError, UnicodeDecodeError."""
    try:
        return dict(_SETTING.findall(_config(facts).read_text()))
    except FileNotFoundError:
        return None


def _config(facts: Facts) -> Path:
    return facts.node.etc / "nvidia-container-runtime/config.toml"


def podman(facts: Facts) -> Iterator[Verdict]:
    """Whether podman, which knows GPUs by CDI alone, has a specification that names their UUIDs."""
    where = facts.which("podman")
    specs = check_cdi.found(facts).specs
    if where is None:
        yield ok("podman is not on this node")
    elif specs:
        named = {name for spec in specs for name in spec.devices}
        uuids = (uuid for uuid, shared in facts.plan.by_uuid().items() if not shared.gpu.simulated)
        nameless = [uuid for uuid in uuids if uuid not in named]
        if nameless:
            yield warning(
                f"no CDI specification has a device of the name {' or '.join(nameless)}, by which"
                " podman's tasks ask for it (nvidia.com/gpu=${NVIDIA_VISIBLE_DEVICES})",
                generate(_FOR_PODMAN, by_uuid=True),
            )
        else:
            yield ok(f"podman has {counted(len(specs), 'CDI specification')}")
    else:
        yield warning(
            "podman is on this node, and there is no CDI specification by which its tasks could"
            " get GPUs",
            generate(_FOR_PODMAN, by_uuid=True),
        )
