# SPDX-License-Identifier: MPL-2.0
"""What Nomad offers on this node, against what there is."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from nomad_nvidia_vgpu.cli.diagnosis.check_gpus import counted
from nomad_nvidia_vgpu.cli.diagnosis.check_tasks import withheld_for
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Verdict, error, ok, warning
from nomad_nvidia_vgpu.cli.diagnosis.nomad_api import ApiGroup
from nomad_nvidia_vgpu.cli.tables.groups import device_name
from nomad_nvidia_vgpu.device.fingerprint import DeviceGroup
from nomad_nvidia_vgpu.sharing.plan import DEVICE_TYPE
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.sharing.withheld import WITHHELD

_UUID = re.compile(r"((?:GPU|MIG)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b")
_MAX_NAMED = 3
_STALE = (
    "restart the agent, after draining the node if vGPUs become fewer; if it stays so, see the"
    " agent's log for nvidia-vgpu"
)


def groups(facts: Facts) -> Iterator[Verdict]:
    """Whether Nomad offers the vGPUs that this plugin would publish with the present config."""
    there = facts.nomad.groups
    configured = facts.configured
    if there is None or facts.driver.problem:
        return
    if configured.agent is None or configured.option_problems:
        return
    wanted = {device_name(group): group for group in facts.groups}
    ours = [group for group in there if _ours(facts, group)]
    tasks = withheld_for(facts)
    verdicts = [
        said for group in ours for said in _compared(group, wanted.get(group.device), tasks)
    ]
    named = {group.device for group in ours}
    verdicts += [
        error(f"Nomad does not offer {name}, which this node would publish", _STALE)
        for name in wanted
        if name not in named
    ]
    vgpus = sum(len(group.instances) for group in ours)
    yield from verdicts or [ok(f"Nomad offers all {counted(vgpus, 'vGPU')} of this node")]


def _ours(facts: Facts, group: ApiGroup) -> bool:
    return (group.vendor, group.type) == (facts.config.vendor, DEVICE_TYPE)


def _compared(
    group: ApiGroup, wanted: DeviceGroup | None, tasks: Mapping[str, Sequence[str]]
) -> Iterator[Verdict]:
    if wanted is None:
        yield error(f"Nomad offers {group.device}, which this node would not publish", _STALE)
        return
    ids = {instance.id: instance for instance in wanted.instances}
    surplus, missing = group.instances.keys() - ids, ids.keys() - group.instances
    if surplus or missing:
        yield error(
            f"Nomad offers {counted(len(group.instances), 'vGPU')} as {group.device}, and this node"
            f" would publish {len(ids)}{' others' * (len(ids) == len(group.instances))}",
            _STALE,
        )
        return
    reasons = defaultdict(list)
    for vgpu, reason in sorted(group.instances.items()):
        if reason and ids[vgpu].healthy:
            reasons[reason].append(vgpu)
    for reason, vgpus in reasons.items():
        # A vGPU that waits for a task to end is as it should be.
        said = warning if reason == WITHHELD else error
        uuids = dict.fromkeys(parsed.gpu_uuid for text in vgpus if (parsed := VgpuId.parse(text)))
        whose = [task for uuid in uuids for task in tasks.get(uuid, ())]
        by = f" - {'; '.join(dict.fromkeys(whose))}" if reason == WITHHELD and whose else ""
        yield said(
            f"Nomad has {_named(vgpus)} of {group.device} as unhealthy: {reason}{by}",
            "do as it says; a GPU comes back by itself once it has been well for a while",
        )
    if not reasons and any(not vgpu.healthy for vgpu in wanted.instances):
        well = [vgpu.id for vgpu in wanted.instances if not vgpu.healthy]
        if any(not group.instances[vgpu] for vgpu in well):
            yield warning(
                f"Nomad still has {_named(well)} of {group.device} as healthy",
                "wait for fingerprint_period; if it stays so, restart the agent",
            )


def sold_twice(facts: Facts) -> Iterator[Verdict]:
    """Whether two device groups, of whatever plugins, offer the same GPU or MIG device."""
    there = facts.nomad.groups
    if there is None:
        return
    sellers = _sellers(there, _parents(facts))
    found = False
    for uuid, by in sorted(sellers.items()):
        if len(by) > 1:
            found = True
            names = " and ".join(f"{there[i].device} ({_an_id(there[i], ids)})" for i, ids in by)
            yield error(
                f"{uuid} is sold twice, as {names}: Nomad places tasks on it as if each were a GPU"
                " of its own",
                "take one of the plugins out of plugin_dir and the agent's configuration, or let it"
                " ignore this GPU (ignored_gpu_ids); restart the agent",
            )
    if not found:
        yield ok("no GPU is offered by two device groups")


def _sellers(
    there: Sequence[ApiGroup], parents: Mapping[str, str]
) -> dict[str, list[tuple[int, list[str]]]]:
    """For each GPU the groups that offer it, whole or by one of its MIG devices, with their ids.

    MIG devices of one GPU may be in several groups, as long as none offers the GPU itself.
    """
    by_uuid: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for number, group in enumerate(there):
        for vgpu in group.instances:
            uuid = _uuid(vgpu, parents)
            if uuid is not None:
                by_uuid[uuid][number].append(vgpu)
    for uuid in list(by_uuid):
        parent = parents.get(uuid)
        if parent in by_uuid and parent != uuid:
            for number, ids in by_uuid[uuid].items():
                by_uuid[parent][number] += ids
    return {uuid: list(by.items()) for uuid, by in by_uuid.items()}


def _parents(facts: Facts) -> dict[str, str]:
    """Every UUID of this node, with that of its physical GPU."""
    known = {gpu.uuid: gpu.uuid for gpu in facts.driver.physical}
    for seen in facts.driver.inventory.gpus:
        known[seen.gpu.uuid] = seen.gpu.parent_uuid or seen.gpu.uuid
    return known


def _uuid(instance: str, known: Mapping[str, str]) -> str | None:
    """The GPU that an id speaks of; None if it speaks of none."""
    vgpu = VgpuId.parse(instance)
    for uuid in (instance, vgpu.gpu_uuid if vgpu else instance):
        if uuid in known:
            return uuid
    match = _UUID.match(instance)
    return match[1] if match else None


def _an_id(group: ApiGroup, ids: Sequence[str]) -> str:
    return f"{ids[0]}, …" if len(group.instances) > 1 else ids[0]


def _named(vgpus: Sequence[str]) -> str:
    more = f" and {len(vgpus) - _MAX_NAMED} more" if len(vgpus) > _MAX_NAMED else ""
    return f"{', '.join(vgpus[:_MAX_NAMED])}{more}"
