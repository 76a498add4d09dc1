# SPDX-License-Identifier: MPL-2.0
"""The driver's own limit of memory for a container as a whole, without MPS.

A hook of NVIDIA's container toolkit reads two variables of a container and has the driver hold its
cgroup to them. Where driver, toolkit or kernel cannot, a container with them does not start or is
not held: so they are given only where all three can
(docs/internals/containers.md#the-drivers-limit-for-a-container).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.gpu.model import Gpu
from nomad_nvidia_vgpu.host.toolkit import Toolkit, look_at_toolkit

LIMIT_ENV = "NVIDIA_GPU_MEMORY_LIMIT"
"""In MiB, for each GPU of the container: more cannot be allocated."""
REQUEST_ENV = "NVIDIA_GPU_MEMORY_REQUEST"
"""In MiB, for each GPU of the container: so much is kept for it."""
CGROUP = "cgroup"

_TOOLKIT = (1, 20, 1)
_DRIVER = 615
_ASKED = f'memory_isolation = "{CGROUP}"'
_OTHERWISE = "or take memory_isolation out: until then no container is held to its share"


def within_means(
    config: PluginConfig, look: Callable[[], Toolkit] = look_at_toolkit
) -> tuple[PluginConfig, Sequence[Problem]]:
    """The config without what toolkit and kernel of this node cannot do, and why; looks only if asked to."""
    if config.memory_isolation != CGROUP:
        return config, ()
    problems = lacking(config, look())
    return (config._replace(memory_isolation="none") if problems else config), problems


def lacking(config: PluginConfig, toolkit: Toolkit) -> Sequence[Problem]:
    """What the limit lacks on this node, beside its driver."""
    problems = []
    if config.device_nodes == "cdi":
        problems.append(
            Problem(
                f'{_ASKED} needs NVIDIA\'s container runtime, and with device_nodes = "cdi" tasks do'
                " without it",
                f"take device_nodes out, {_OTHERWISE}",
            )
        )
    if toolkit.version is None or toolkit.version < _TOOLKIT:
        there = "nvidia-ctk does not say its version"
        if toolkit.version is not None:
            there = f"{_dotted(toolkit.version)} is here"
        problems.append(
            Problem(
                f"{_ASKED} needs NVIDIA's container toolkit {_dotted(_TOOLKIT)} or newer, and {there}",
                f"install it and restart the agent, {_OTHERWISE}",
            )
        )
    if not toolkit.unified_cgroups:
        problems.append(
            Problem(
                f"{_ASKED} needs cgroup v2, and this node has v1",
                f"boot it with systemd.unified_cgroup_hierarchy=1, {_OTHERWISE}",
            )
        )
    return problems


def holds(config: PluginConfig, gpu: Gpu, sharing: str) -> bool:
    """Whether the driver can hold the containers on this GPU: not on MIG devices, nor beside MPS."""
    return _meant(config, gpu, sharing) and gpu.memory_mib is not None and _can(gpu)


def too_old(config: PluginConfig, gpus: Iterable[tuple[Gpu, str]]) -> Iterable[Problem]:
    """A sentence on the driver of these GPUs, each with its way of sharing, if it cannot hold any."""
    old = {gpu.driver_version for gpu, how in gpus if _meant(config, gpu, how) and not _can(gpu)}
    for version in sorted(filter(None, old)):
        yield Problem(
            f"{_ASKED} needs driver {_DRIVER} or newer, and {version} runs",
            f"install a newer one, {_OTHERWISE}",
        )


def envs(held_mib: Sequence[tuple[int, int]]) -> Mapping[str, str]:
    """What a task is told, by its share and its limit on each GPU: the toolkit takes one of each for all."""
    if not held_mib:
        return {}
    shares, limits = zip(*held_mib, strict=True)
    return {LIMIT_ENV: str(min(limits)), REQUEST_ENV: str(min(shares))}


def _meant(config: PluginConfig, gpu: Gpu, sharing: str) -> bool:
    able = gpu.parent_uuid is None and not gpu.unified_memory and not gpu.simulated
    return config.memory_isolation == CGROUP and sharing == "time-slicing" and able


def _can(gpu: Gpu) -> bool:
    major = (gpu.driver_version or "").partition(".")[0]
    return major.isdecimal() and int(major) >= _DRIVER


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
