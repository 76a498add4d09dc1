# SPDX-License-Identifier: MPL-2.0
"""What a task is given for the vGPUs that Nomad chose for it.

Nomad calls once per `device` block before the first start of a task, tells nothing of the task,
and never says when it ended: a reservation is a function of the ids alone and changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import RequestError
from nomad_nvidia_vgpu.sharing.grant import Grant, Mount
from nomad_nvidia_vgpu.sharing.plan import Plan, SharedGpu
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId

IDS_ENV = "NVIDIA_VGPU_IDS"
MEMORY_ENV = "NVIDIA_VGPU_MEMORY_MIB"
BUDGETS_ENV = "NVIDIA_VGPU_BUDGETS"
GROUP_ENV = "NVIDIA_VGPU_GROUP"
"""By which Nomad counts the vGPUs, so that it is known later whether it still does."""

_MAX_NAMED = 8


class Reservation(NamedTuple):
    """What is added to the task; mounts only where asked for, since Nomad loses or breaks them."""

    envs: Mapping[str, str]
    mounts: tuple[Mount, ...] = ()


def reserve(config: PluginConfig, plan: Plan, ids: Sequence[str]) -> Reservation:
    """The reservation for `ids`, whatever their order; RequestError naming all that are wrong."""
    wanted = sorted(set(ids))
    if not wanted:
        raise RequestError("Nomad asked for no vGPU: give the device block a count of at least 1")
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
    apart = [one.gpu.uuid for one, _count in shares if one.strategy.one_gpu_per_group]
    if apart and len(shares) > 1:
        raise RequestError(
            f"cannot reserve vGPUs of {', '.join(one.gpu.uuid for one, _ in shares)} for one task:"
            f" {apart[0]} is shared by MPS, and a process has one MPS server: give the job one"
            " device block whose count fits on one GPU"
        )
    deliveries = [
        one.strategy.deliver(config, Grant(one.gpu, one.vgpus, count)) for one, count in shares
    ]
    envs = {**_envs(config, gpus, granted, wanted), **_group(config, plan, granted)}
    for delivery in deliveries:
        envs.update(delivery.envs)
    return Reservation(envs, tuple(mount for d in deliveries for mount in d.mounts))


def _refusal(problems: Sequence[str]) -> str:
    more = len(problems) - _MAX_NAMED
    named = "; ".join(problems[:_MAX_NAMED]) + (f"; and {more} more" if more > 0 else "")
    return (
        f"cannot reserve: {named}. Nomad places the task again when the job has a reschedule "
        "block; `nomad node status` shows the vGPUs of this node"
    )


def _envs(
    config: PluginConfig, gpus: Mapping[str, SharedGpu], granted: Counter[str], ids: Sequence[str]
) -> dict[str, str]:
    uuids = sorted(granted)
    budgets = {
        uuid: mib for uuid in uuids if (mib := gpus[uuid].memory_mib(granted[uuid])) is not None
    }
    envs = dict.fromkeys(config.visible_devices_envs, ",".join(uuids))
    envs[IDS_ENV] = ",".join(sorted(ids, key=_by_number))
    if budgets:
        envs[BUDGETS_ENV] = ",".join(f"{uuid}={mib}" for uuid, mib in budgets.items())
    if len(budgets) == len(uuids):
        envs[MEMORY_ENV] = str(min(budgets.values()))
    return envs


def _group(config: PluginConfig, plan: Plan, granted: Collection[str]) -> dict[str, str]:
    """The device group of these GPUs, if they are of one, as in all that Nomad asks for."""
    groups = {g.device(config.vendor) for g in plan.groups for o in g.gpus if o.gpu.uuid in granted}
    return {GROUP_ENV: groups.pop()} if len(groups) == 1 else {}


def _by_number(text: str) -> tuple[str, int]:
    vgpu = VgpuId.parse(text)
    return (vgpu.gpu_uuid, vgpu.number) if vgpu else (text, 0)
