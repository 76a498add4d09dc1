# SPDX-License-Identifier: MPL-2.0
"""Container runtimes: whether docker and podman tasks get the GPUs that they are given."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nomad_nvidia_vgpu.cdi.delivery import generate
from nomad_nvidia_vgpu.cli.diagnosis import check_cdi
from nomad_nvidia_vgpu.cli.diagnosis.check_gpus import counted
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Verdict, error, ok, warning

RUNTIME = "nvidia"
PROGRAM = "nvidia-container-runtime"

_CONFIGURE = "nvidia-ctk runtime configure --runtime=docker, then systemctl restart docker"
_FOR_PODMAN = "/etc/cdi/nvidia.yaml"
_ENVVAR = "accept-nvidia-visible-devices-envvar-when-unprivileged"
_SETTING = re.compile(r"^\s*([a-z-]+)\s*=\s*\"?([^\"#\n]*?)\"?\s*(?:#.*)?$", re.MULTILINE)


def docker(facts: Facts) -> Iterator[Verdict]:
    """Whether dockerd has NVIDIA's runtime, which Nomad demands of it for our variable."""
    if not _has_dockerd(facts):
        yield ok("dockerd is not on this node")
        return
    if facts.config.device_nodes == "cdi":
        yield ok('with device_nodes = "cdi" docker needs no runtime of NVIDIA\'s')
        return
    path = facts.node.etc / "docker/daemon.json"
    try:
        settings = json.loads(path.read_text())
    except FileNotFoundError:
        settings = {}
    except OSError as why:
        yield warning(f"{path} cannot be read: {why.strerror}", "run this command as root")
        return
    except (ValueError, RecursionError) as why:
        yield error(f"{path} is not valid JSON: {why}", "fix it: dockerd does not start with it")
        return
    runtimes = settings.get("runtimes") if isinstance(settings, dict) else None
    own = runtimes.get(RUNTIME) if isinstance(runtimes, dict) else None
    if not isinstance(own, dict):
        yield warning(
            f'dockerd has no runtime "{RUNTIME}" ({path}), so docker tasks with a vGPU fail:'
            f' requested docker runtime "{RUNTIME}" was not found',
            f"install NVIDIA's container toolkit; {_CONFIGURE}",
        )
        return
    yield from _runtime(facts, own, settings)


def _runtime(facts: Facts, own: dict[str, Any], settings: dict[str, Any]) -> Iterator[Verdict]:
    program = str(own.get("path") or PROGRAM)
    there = Path(program).exists() if program.startswith("/") else facts.node.which(program)
    if not there:
        yield error(
            f'dockerd\'s runtime "{RUNTIME}" is {program}, which is not there',
            f"install NVIDIA's container toolkit; {_CONFIGURE}",
        )
    elif settings.get("default-runtime") == RUNTIME:
        yield warning(
            f'dockerd\'s default runtime is "{RUNTIME}", so a job without a device block can take'
            " every GPU by NVIDIA_VISIBLE_DEVICES=all",
            'take "default-runtime" out of daemon.json: Nomad asks for the runtime where it needs it',
        )
    else:
        yield ok(f'dockerd has the runtime "{RUNTIME}" ({program})')


def toolkit(facts: Facts) -> Iterator[Verdict]:
    """Whether NVIDIA's container runtime is set to listen to our variable."""
    path = facts.node.etc / "nvidia-container-runtime/config.toml"
    if facts.config.device_nodes == "cdi":
        yield ok('with device_nodes = "cdi" NVIDIA\'s container runtime is not used')
        return
    try:
        given = dict(_SETTING.findall(path.read_text()))
    except FileNotFoundError:
        there = facts.node.which(PROGRAM) is not None
        how = "as it was delivered" if there else "not on this node"
        yield ok(f"NVIDIA's container runtime is {how}")
        return
    except (OSError, UnicodeDecodeError) as why:
        yield warning(f"{path} cannot be read: {why}", "run this command as root")
        return
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
    else:
        yield ok(f"NVIDIA's container runtime takes GPUs from the environment ({path})")


def podman(facts: Facts) -> Iterator[Verdict]:
    """Whether podman, which knows GPUs by CDI alone, has a specification that names their UUIDs."""
    where = facts.node.which("podman")
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


def _has_dockerd(facts: Facts) -> bool:
    node = facts.node
    there = (node.run / "docker.sock", node.etc / "docker/daemon.json")
    return node.which("dockerd") is not None or any(path.exists() for path in there)
