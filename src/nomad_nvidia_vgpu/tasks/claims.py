# SPDX-License-Identifier: MPL-2.0
"""Which vGPUs a task claims, read from the environment that Nomad gave it.

The environment is the task's to change: it can start a program of its own with another one, or
overwrite it in place, at any time. So a claim is a claim, checked against those of others by
`device.attribution`; what it can do at worst is said there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from nomad_nvidia_vgpu.host.cgroups import TaskCgroup
from nomad_nvidia_vgpu.sharing.task_env import BUDGETS_ENV, GROUP_ENV, IDS_ENV
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.state.usage import Task

_MOST_IDS = 4096
_MOST_LETTERS = 128
_MOST_DIGITS = 12
_UUID = re.compile(r"(GPU|MIG)-[A-Za-z0-9/-]{1,120}")
"""What a UUID of NVML looks like, those of old MIG devices too (`MIG-GPU-…/1/0`); what a task says
ends up in logs, labels and on terminals."""


class Claim(NamedTuple):
    """What one task says of itself, and what is known of it."""

    task: Task
    vgpus: frozenset[VgpuId]
    promised_mib: Mapping[str, int]
    """What it says it was promised on each GPU, by UUID."""

    def on(self, gpu_uuid: str) -> list[VgpuId]:
        """The claimed vGPUs of one GPU, by number."""
        return sorted(vgpu for vgpu in self.vgpus if vgpu.gpu_uuid == gpu_uuid)


def claim_of(
    environment: Mapping[str, str], cgroup: TaskCgroup | None, *, certain: bool
) -> Claim | None:
    """The claim of a task with this environment; None: it claims no vGPUs.

    Without a cgroup the claim itself is all that tells the task from others.
    """
    vgpus = frozenset(_ids(environment.get(IDS_ENV, "")))
    if not vgpus:
        return None
    told = {name: _shown(environment.get(f"NOMAD_{name}", "")) for name in _TOLD}
    ids = tuple(str(vgpu) for vgpu in sorted(vgpus))
    allocation, name, container = told["ALLOC_ID"], told["TASK_NAME"], None
    key = f"{allocation or 'unnamed'}/{name or 'unnamed'} {','.join(ids)}"
    if cgroup is not None:
        key = cgroup.key
        container = cgroup.name.container
        if container is None:
            allocation, name = cgroup.name.allocation, _shown(cgroup.name.task or "")
    task = Task(
        key=key,
        certain=certain and cgroup is not None,
        allocation=allocation,
        name=name,
        group=told["GROUP_NAME"],
        job=told["JOB_ID"] or told["JOB_NAME"],
        container=container,
        vgpu_ids=ids,
    )
    return Claim(task, vgpus, _budgets(environment.get(BUDGETS_ENV, "")))


_TOLD = ("ALLOC_ID", "TASK_NAME", "GROUP_NAME", "JOB_ID", "JOB_NAME")

VARIABLES = (IDS_ENV, BUDGETS_ENV, GROUP_ENV, *(f"NOMAD_{name}" for name in _TOLD))
"""All that is ever read of a task's environment."""


def _ids(text: str) -> list[VgpuId]:
    parts = text.split(",", _MOST_IDS)[:_MOST_IDS]
    parsed = (VgpuId.parse(part.strip()) for part in parts)
    return [vgpu for vgpu in parsed if vgpu is not None and _UUID.fullmatch(vgpu.gpu_uuid)]


def _budgets(text: str) -> dict[str, int]:
    found = {}
    for part in text.split(",", _MOST_IDS)[:_MOST_IDS]:
        uuid, _, mib = part.strip().rpartition("=")
        if _UUID.fullmatch(uuid) and mib.isdecimal() and len(mib) <= _MOST_DIGITS:
            found[uuid] = int(mib)
    return found


def _shown(text: str) -> str | None:
    """A name as a task gives it, fit for logs and labels."""
    kept = "".join(letter if letter.isprintable() else "?" for letter in text[:_MOST_LETTERS])
    return kept or None
