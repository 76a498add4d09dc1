# SPDX-License-Identifier: MPL-2.0
"""Which vGPUs a task claims, read from the environment that Nomad gave it.

The environment is the task's to change: it can start a program of its own with another one, or
overwrite it in place, at any time. So a claim is a claim, checked against those of others by
`device.attribution`; what it can do at worst is said there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from nomad_nvidia_vgpu.config.options import MAX_VGPUS
from nomad_nvidia_vgpu.host.cgroups import TaskCgroup
from nomad_nvidia_vgpu.host.proc import Proc
from nomad_nvidia_vgpu.sharing.task_env import BUDGETS_ENV, GROUP_ENV, IDS_ENV
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.state.usage import Task

MOST_CLAIMED = 8192
"""vGPUs in all claims that are kept; a node has 4,096 at most."""
_MOST_IDS = 4096
_MOST_TOLD = 64  # users
_MOST_LETTERS = 128
_MOST_DIGITS = 12
_UUID = re.compile(r"(GPU|MIG)-[A-Za-z0-9/-]{1,120}")
"""What a UUID of NVML looks like, those of old MIG devices too (`MIG-GPU-…/1/0`); what a task says
ends up in logs, labels and on terminals."""


_log = logging.getLogger(__name__)


class Claim(NamedTuple):
    """What one task says of itself, and what is known of it."""

    task: Task
    vgpus: frozenset[VgpuId]
    promised_mib: Mapping[str, int]
    """What it says it was promised on each GPU, by UUID."""

    def on(self, gpu_uuid: str) -> list[VgpuId]:
        """The claimed vGPUs of one GPU, by number."""
        return sorted(vgpu for vgpu in self.vgpus if vgpu.gpu_uuid == gpu_uuid)


class Room:
    """How much of what tasks claim is kept, in sum: no task can fill this process' memory."""

    def __init__(self, left: int = MOST_CLAIMED) -> None:
        """Takes claims of `left` vGPUs together."""
        self._left = left

    def take(self, vgpus: int) -> bool:
        """Whether a claim of so many vGPUs is kept.

        A claim gets a quarter of what is left, so that large ones leave room for small ones.
        """
        if vgpus > self.most:
            return False
        self._left -= vgpus
        return True

    @property
    def most(self) -> int:
        """How many vGPUs the next claim may have."""
        return self._left // 4


class TooLargeError(Exception):
    """A claim of more vGPUs than there is room for."""


class Complaints:
    """Tells the log of too large claims, once of each user; not thread-safe."""

    def __init__(self, proc: Proc) -> None:
        """Nobody has been complained of."""
        self._proc = proc
        self._told: set[int | None] = set()

    def tell(self, pid: int) -> None:
        """Names a process, and its user."""
        uid = self._proc.user(pid)
        if uid in self._told or len(self._told) >= _MOST_TOLD:
            return
        self._told.add(uid)
        _log.warning(
            "process %d of uid %s claims more vGPUs in its %s than is kept of all tasks together, so"
            " its claim is left out, and so are further ones of this user: see what it is, because no"
            " reservation is as large",
            pid,
            "?" if uid is None else uid,
            IDS_ENV,
        )


def claim_of(
    environment: Mapping[str, str],
    cgroup: TaskCgroup | None,
    *,
    certain: bool,
    known: Collection[str] | None = None,
    most: int = MOST_CLAIMED,
) -> Claim | None:
    """The claim of a task with this environment; None: it claims no vGPUs. TooLargeError.

    Without a cgroup the claim itself is all that tells the task from others. `known` are the UUIDs
    of the node's GPUs: what is claimed of others is left out before it is parsed. None: of all.
    `most` is how many vGPUs it may claim.
    """
    vgpus = frozenset(islice(_ids(environment.get(IDS_ENV, ""), known), most + 1))
    if len(vgpus) > most:
        raise TooLargeError
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
    return Claim(task, vgpus, _budgets(environment.get(BUDGETS_ENV, ""), known))


_TOLD = ("ALLOC_ID", "TASK_NAME", "GROUP_NAME", "JOB_ID", "JOB_NAME")

VARIABLES = (IDS_ENV, BUDGETS_ENV, GROUP_ENV, *(f"NOMAD_{name}" for name in _TOLD))
"""All that is ever read of a task's environment."""


def _ids(text: str, known: Collection[str] | None) -> Iterator[VgpuId]:
    for part in text.split(",", _MOST_IDS)[:_MOST_IDS]:
        if known is not None and part.rpartition("-")[0].lstrip() not in known:
            continue
        vgpu = VgpuId.parse(part.strip())
        if vgpu is not None and vgpu.number < MAX_VGPUS and _UUID.fullmatch(vgpu.gpu_uuid):
            yield vgpu


def _budgets(text: str, known: Collection[str] | None) -> dict[str, int]:
    found = {}
    for part in text.split(",", _MOST_IDS)[:_MOST_IDS]:
        uuid, _, mib = part.strip().rpartition("=")
        if known is not None and uuid not in known:
            continue
        if _UUID.fullmatch(uuid) and mib.isdecimal() and len(mib) <= _MOST_DIGITS:
            found[uuid] = int(mib)
    return found


def _shown(text: str) -> str | None:
    """A name as a task gives it, fit for logs and labels."""
    kept = "".join(letter if letter.isprintable() else "?" for letter in text[:_MOST_LETTERS])
    return kept or None
