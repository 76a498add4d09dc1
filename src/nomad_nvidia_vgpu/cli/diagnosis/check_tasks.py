# SPDX-License-Identifier: MPL-2.0
"""Tasks that hold vGPUs in a way that Nomad does not count, named so that somebody can end them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from nomad_nvidia_vgpu.cli.diagnosis import task_cgroups
from nomad_nvidia_vgpu.cli.diagnosis.check_nomad import version_number
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Verdict, error, ok, warning, warning_of
from nomad_nvidia_vgpu.cli.diagnosis.nomad_api import NomadLook
from nomad_nvidia_vgpu.host.proc import Proc
from nomad_nvidia_vgpu.host.toolkit import has_unified_cgroups
from nomad_nvidia_vgpu.sharing.task_env import IDS_ENV
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.sharing.withheld import WITHHELD
from nomad_nvidia_vgpu.tasks.claims import VARIABLES, claim_of

_ENDED = ("complete", "failed", "lost")


class Holder(NamedTuple):
    """A task that holds vGPUs, by the environment of its processes."""

    pid: int
    """Its oldest process by number."""
    allocation: str
    name: str | None
    job: str | None
    vgpus: frozenset[VgpuId]

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"task {self.name or '?'} of allocation {self.allocation} (pid {self.pid}{job})"


def holders(facts: Facts) -> list[Holder]:
    """The tasks of this node that were started with vGPUs, as far as this user may read them."""
    proc = Proc(str(facts.node.proc))
    found: dict[tuple[str, str | None], Holder] = {}
    for pid in sorted(proc.pids()):
        environment = proc.environment(pid, VARIABLES) or {}
        claim = claim_of(environment, None, certain=False) if IDS_ENV in environment else None
        if claim is None or claim.task.allocation is None:
            continue
        task = claim.task
        holder = Holder(pid, str(task.allocation), task.name, task.job, claim.vgpus)
        found.setdefault((holder.allocation, holder.name), holder)
    return list(found.values())


def held(facts: Facts) -> Iterator[Verdict]:
    """Whether each vGPU that a task holds is of a GPU that is there, and its task known to Nomad."""
    if facts.driver.problem or facts.driver.simulated:
        return
    there = {gpu.uuid for gpu in facts.driver.physical}
    there |= {seen.gpu.uuid for seen in facts.driver.inventory.gpus}
    said = [verdict for holder in holders(facts) for verdict in _judged(holder, facts, there)]
    yield from said or [
        ok("no task holds a vGPU of a GPU that is gone, or has outlived Nomad's care")
    ]


def _judged(holder: Holder, facts: Facts, there: set[str]) -> Iterator[Verdict]:
    if is_orphan(holder, facts.nomad):
        yield warning(
            f"{holder} holds vGPUs, and Nomad does not run it: an orphan",
            f"see what pid {holder.pid} is, and kill it: its vGPUs are free then",
        )
        return
    gone = sorted({vgpu.gpu_uuid for vgpu in holder.vgpus} - there)
    if gone:
        yield error(
            f"{holder} holds vGPUs of {', '.join(gone)}, which the driver does not list",
            f"nomad alloc stop {holder.allocation}",
        )


def attribution(facts: Facts) -> Iterator[Verdict]:
    """Whether the tasks that the plugin is to end can be proved to be those, by their cgroups."""
    agent = facts.configured.agent
    acts = task_cgroups.ends_tasks(facts.config)
    version = version_number(facts) if acts else None
    if agent is None or (acts and version is None):
        return
    problem = task_cgroups.unproven(
        version,
        unified=has_unified_cgroups(facts.node.sys),
        raw_exec=agent.options_of(task_cgroups.RAW_EXEC),
        acts=acts,
    )
    if problem:
        yield warning_of(problem)
    elif acts:
        yield ok("Nomad puts each task into a cgroup, which proves whose a process is")
    else:
        yield ok("no option is set by which the plugin ends tasks")


def is_orphan(holder: Holder, nomad: NomadLook) -> bool:
    """Whether Nomad says of its allocations on this node that this is none, or has ended."""
    if nomad.allocations is None:
        return False
    status = nomad.allocations.get(holder.allocation)
    return nomad.all_allocations if status is None else status in _ENDED


def withheld_for(facts: Facts) -> Mapping[str, list[str]]:
    """For each GPU of which vGPUs are withheld the tasks on it, in words."""
    uuids = {
        vgpu.gpu_uuid
        for group in facts.nomad.groups or ()
        for instance, reason in group.instances.items()
        if reason == WITHHELD and (vgpu := VgpuId.parse(instance))
    }
    found: dict[str, list[str]] = defaultdict(list)
    for holder in holders(facts) if uuids else ():
        orphan = ", an orphan" if is_orphan(holder, facts.nomad) else ""
        for uuid in uuids & {vgpu.gpu_uuid for vgpu in holder.vgpus}:
            found[uuid].append(f"{holder}{orphan}")
    return found
