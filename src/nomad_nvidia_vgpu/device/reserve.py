# SPDX-License-Identifier: MPL-2.0
"""What a task is given for the vGPUs that Nomad chose for it.

Nomad calls once per `device` block before the first start of a task, tells nothing of the task,
and never says when it ended: a reservation is a function of the ids alone and changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import RequestError
from nomad_nvidia_vgpu.gpu.model import Gpu
from nomad_nvidia_vgpu.sharing import container_limit
from nomad_nvidia_vgpu.sharing.framework_hints import Part, hints
from nomad_nvidia_vgpu.sharing.grant import Delivery, DeviceNode, Grant, Mount
from nomad_nvidia_vgpu.sharing.plan import Plan, SharedGpu
from nomad_nvidia_vgpu.sharing.task_env import (
    BUDGETS_ENV,
    CUDA_ENV,
    GROUP_ENV,
    IDS_ENV,
    MEMORY_ENV,
    RUNTIME_ENV,
)
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId

_MAX_NAMED = 8


class Reservation(NamedTuple):
    """What is added to the task; more than variables only where asked for, since Nomad loses it."""

    envs: Mapping[str, str]
    mounts: tuple[Mount, ...] = ()
    devices: tuple[DeviceNode, ...] = ()


class NodeSource(Protocol):
    """Where the device files of GPUs come from, and what goes with them."""

    def deliver(self, gpus: Sequence[Gpu]) -> Delivery:
        """What a task with these GPUs is given; RequestError with the remedy."""


def node_source(config: PluginConfig) -> NodeSource | None:
    """Where the config says that device files come from, if a task is to have any."""
    if config.device_nodes != "cdi":
        return None
    # Imported late: few nodes have a use for it, and every start would wait for it.
    from nomad_nvidia_vgpu.cdi.delivery import CdiNodes  # noqa: PLC0415

    return CdiNodes(config.cdi_spec_dirs)


def reserve(
    config: PluginConfig, plan: Plan, ids: Sequence[str], nodes: NodeSource | None = None
) -> Reservation:
    """The reservation for `ids`, whatever their order; RequestError naming all that are wrong.

    With `nodes` a task gets its GPUs by their device files, and needs no container runtime.
    """
    wanted = sorted(set(ids))
    if not wanted:
        raise RequestError("Nomad asked for no vGPU", "give the device block a count of at least 1")
    gpus = plan.by_uuid()
    granted: Counter[str] = Counter()
    problems: list[str] = []
    for text in wanted:
        vgpu = VgpuId.parse(text)
        gpu = gpus.get(vgpu.gpu_uuid) if vgpu else None
        if vgpu is None or gpu is None or vgpu.number >= gpu.published:
            problems.append(f"{text!r:.220} is not a vGPU of this node now")
        elif not gpu.health_of(vgpu.number).healthy:
            problems.append(f"{text} is unhealthy ({gpu.health_of(vgpu.number).reason})")
        else:
            granted[vgpu.gpu_uuid] += 1
    if problems:
        raise RequestError(_refusal(problems))
    shares = [(gpus[uuid], count) for uuid, count in sorted(granted.items())]
    apart = [shared.gpu.uuid for shared, _count in shares if shared.strategy.one_gpu_per_group]
    if apart and len(shares) > 1:
        raise RequestError(
            (
                f"cannot reserve vGPUs of {', '.join(shared.gpu.uuid for shared, _ in shares)} for one"
                f" task: {apart[0]} is shared by MPS, and a process has one MPS server"
            ),
            "give the job one device block whose count fits on one GPU",
        )
    deliveries = [
        shared.strategy.deliver(
            config, Grant(shared.gpu, shared.vgpus, count, shared.memory_percent)
        )
        for shared, count in shares
    ]
    by_nodes = nodes.deliver([shared.gpu for shared, _count in shares]) if nodes else Delivery()
    envs = {
        **by_nodes.envs,  # the node's, and not to take the place of any of ours
        **_hints(config, shares),
        **_envs(config, gpus, granted, wanted, hides_runtime=nodes is not None),
        **_group(config, plan, granted),
        **_container_limit(shares),
        **{name: text for d in deliveries for name, text in d.envs.items()},
    }
    return Reservation(
        envs,
        tuple(mount for d in (by_nodes, *deliveries) for mount in d.mounts),
        by_nodes.devices,
    )


def _refusal(problems: Sequence[str]) -> str:
    more = len(problems) - _MAX_NAMED
    named = "; ".join(problems[:_MAX_NAMED]) + (f"; and {more} more" if more > 0 else "")
    return (
        f"cannot reserve: {named}. Nomad places the task again when the job has a reschedule "
        "block; `nomad node status` shows the vGPUs of this node"
    )


def _envs(
    config: PluginConfig,
    gpus: Mapping[str, SharedGpu],
    granted: Counter[str],
    ids: Sequence[str],
    *,
    hides_runtime: bool,
) -> dict[str, str]:
    uuids = sorted(granted)
    budgets = {
        uuid: mib for uuid in uuids if (mib := gpus[uuid].memory_mib(granted[uuid])) is not None
    }
    names: Sequence[str] = config.visible_devices_envs
    if hides_runtime:
        names = [CUDA_ENV if name == RUNTIME_ENV else name for name in names]
    envs = dict.fromkeys(names, ",".join(uuids))
    envs[IDS_ENV] = ",".join(sorted(ids, key=_by_number))
    if budgets:
        envs[BUDGETS_ENV] = ",".join(f"{uuid}={mib}" for uuid, mib in budgets.items())
    if len(budgets) == len(uuids):
        envs[MEMORY_ENV] = str(min(budgets.values()))
    return envs


def _hints(config: PluginConfig, shares: Sequence[tuple[SharedGpu, int]]) -> dict[str, str]:
    """What frameworks are told, for a task that has less than all the memory of its GPUs."""
    if not config.framework_hints:
        return {}
    parts = [Part(shared.memory_mib(count), shared.gpu.memory_mib) for shared, count in shares]
    undivided = all(count == shared.vgpus for shared, count in shares)
    if undivided and all(part.share_mib == part.total_mib for part in parts):
        return {}
    return hints(config.framework_hints, parts, config.framework_headroom_mib)


def _container_limit(shares: Sequence[tuple[SharedGpu, int]]) -> Mapping[str, str]:
    """What has the driver hold the container of a task to its shares, where it does."""
    held = [(s.memory_mib(count), s.limit_mib(count)) for s, count in shares if s.contained]
    return container_limit.envs([(mib, most) for mib, most in held if mib and most])


def _group(config: PluginConfig, plan: Plan, granted: Collection[str]) -> dict[str, str]:
    """The device group of these GPUs, if they are of one, as in all that Nomad asks for."""
    groups = {g.device(config.vendor) for g in plan.groups for o in g.gpus if o.gpu.uuid in granted}
    return {GROUP_ENV: groups.pop()} if len(groups) == 1 else {}


def _by_number(text: str) -> tuple[str, int]:
    vgpu = VgpuId.parse(text)
    return (vgpu.gpu_uuid, vgpu.number) if vgpu else (text, 0)
