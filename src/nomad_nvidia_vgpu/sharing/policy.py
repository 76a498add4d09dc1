# SPDX-License-Identifier: MPL-2.0
"""What the config says of one GPU, and by which rule: the node's options or a `gpu` block.

Each field is decided by the most specific block that gives it: one that names the GPU's UUID,
then its parent's (for a MIG device), then its PCI bus id, then the glob over the model's name
with the most letters beside its wildcards. What no block gives, the node's options decide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from nomad_nvidia_vgpu.config.options import MAX_VGPUS, GpuBlock, GpuConfig, PluginConfig
from nomad_nvidia_vgpu.errors import NOTHING, Problem
from nomad_nvidia_vgpu.gpu.model import Gpu

NODE = "the node's options"
"""The rule that holds where no block says otherwise."""

_UUID, _PARENT, _BUS, _MODEL = 3, 2, 1, 0
_BUS_ID = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([0-9a-f]{2})\.[0-7]", re.IGNORECASE)
_WILDCARDS = "*?"


class DecidedBy(NamedTuple):
    """The rule behind each part of a policy."""

    size: str = NODE
    sharing: str = NODE
    group_by: str = NODE
    ignored: str = NODE
    name: str = NODE
    memory_overcommit: str = NODE
    mps_priority: str = NODE


class Policy(NamedTuple):
    """What is to be done with one GPU."""

    vgpus: int
    """N: into how many vGPUs it is divided; 1 where that cannot be decided."""
    sharing: str
    group_by: str
    ignored: bool = False
    name: str | None = None
    """In place of the model's name in the name of its group."""
    decided_by: DecidedBy = DecidedBy()
    asked: str = ""
    """The size that was asked for, as an option: `vgpus = 4`; empty: none."""
    own_size: bool = False
    """Whether it is divided otherwise than its model, by a block for this very GPU."""
    problem: Problem = NOTHING
    """Why it cannot be decided, and what to do; empty: it is."""
    memory_percent: int = 100
    """What a task may use of the memory, of its share."""
    mps_priority: str = "normal"


class _Size(NamedTuple):
    """Into how many vGPUs: a number, or a least size of each in MiB."""

    vgpus: int | None
    memory_mib: int | None

    def __str__(self) -> str:
        if self.vgpus is not None:
            return f"vgpus = {self.vgpus}"
        return "" if self.memory_mib is None else f"vgpu_memory = {self.memory_mib} MiB"


class _Rank(NamedTuple):
    """How special a block is for a GPU; compares."""

    kind: int
    letters: int


def without_host_memory(config: PluginConfig, gpu: Gpu) -> Gpu:
    """The GPU; of unified memory, less what stays with the host, which is half at most."""
    if not gpu.unified_memory or gpu.memory_mib is None:
        return gpu
    kept = min(config.unified_memory_reserve_mib, gpu.memory_mib // 2)
    return gpu._replace(host_memory_mib=kept)


def decide(config: PluginConfig, gpu: Gpu) -> Policy:
    """What `config` says of `gpu`."""
    gpu = without_host_memory(config, gpu)
    matching = _matching(config, gpu)
    size = _field("its size", matching, _size_of, _Size(config.vgpus, config.vgpu_memory_mib))
    sharing = _field("sharing", matching, lambda g: g.sharing, config.sharing)
    group_by = _field("group_by", matching, lambda g: g.group_by, config.group_by)
    ignored = _field("ignored", matching, lambda g: g.ignored, default=False)
    name = _field("name", matching, lambda g: g.name, default=None)
    factor = _field(
        "memory_overcommit", matching, lambda g: g.memory_overcommit, config.memory_overcommit
    )
    priority = _field("mps_priority", matching, lambda g: g.mps_priority, config.mps.priority)
    by_id = {id.lower() for id in config.ignored_gpu_ids}  # noqa: A001
    if by_id & {gpu.uuid.lower(), (gpu.parent_uuid or "").lower()}:
        ignored = _Found(True, "ignored_gpu_ids")
    vgpus, too_small = _divided(gpu, size)
    decisions = (size, sharing, group_by, ignored, name, factor, priority)
    problems = [found.problem for found in decisions if found.problem] or [too_small]
    general = _field("", _general(matching), _size_of, _Size(config.vgpus, config.vgpu_memory_mib))
    return Policy(
        1 if any(problems) else vgpus,
        sharing.value,
        group_by.value,
        ignored.value,
        name.value,
        DecidedBy(*(found.rule for found in decisions)),
        asked=str(size.value),
        own_size=_divided(gpu, general)[0] != vgpus,
        problem=problems[0].about(gpu.uuid) if problems[0] else NOTHING,
        memory_percent=round(factor.value * 100),
        mps_priority=priority.value,
    )


def unmatched(config: PluginConfig, gpus: Iterable[Gpu]) -> list[GpuBlock]:
    """The blocks that are for none of `gpus`."""
    here = list(gpus)
    return [b for b in config.gpu if not any(_rank(b.selector, gpu) for gpu in here)]


class _Found(NamedTuple):
    """The value of a field and where it comes from; the default's where blocks contradict."""

    value: Any
    rule: str = NODE
    problem: Problem = NOTHING


_Matching = Sequence[tuple[_Rank, GpuBlock]]


def _field(what: str, matching: _Matching, of: Callable[[GpuConfig], Any], default: Any) -> _Found:
    giving = [(rank, block) for rank, block in matching if of(block.given) is not None]
    if not giving:
        return _Found(default)
    best = max(rank for rank, _ in giving)
    equals = [block for rank, block in giving if rank == best]
    values = {of(block.given) for block in equals}
    if len(values) > 1:
        named = " and ".join(str(block) for block in equals)
        problem = Problem(
            f"{named} are equally special and say different things of {what}", "fix or remove one"
        )
        return _Found(default, named, problem)
    return _Found(values.pop(), str(equals[0]))


def _general(matching: _Matching) -> _Matching:
    """Without the blocks for single GPUs: what holds for a GPU of that model anywhere."""
    return [(rank, block) for rank, block in matching if rank.kind == _MODEL]


def _size_of(given: GpuConfig) -> _Size | None:
    return _Size(given.vgpus, given.vgpu_memory_mib) if given.sized else None


def _divided(gpu: Gpu, size: _Found) -> tuple[int, Problem]:
    """N, and the sentence why there is none."""
    vgpus, least_mib = size.value
    if vgpus is not None:
        return vgpus, NOTHING
    if least_mib is None:
        return 1, (
            Problem(
                f"neither the node's options nor a gpu block give a {gpu.model} a size",
                "set vgpus or vgpu_memory, or ignored = true in a gpu block",
            )
        )
    memory_mib = gpu.own_memory_mib
    if memory_mib is None:
        return 1, (
            Problem(
                f"vgpu_memory ({size.rule}) cannot divide a GPU that does not tell its memory",
                "give it vgpus in a gpu block",
            )
        )
    fitting = memory_mib // least_mib
    if fitting == 0:
        return 1, (
            Problem(
                f"its {memory_mib} MiB are less than one vgpu_memory of {least_mib} MiB ({size.rule})",
                "lower it, or give this GPU a size of its own in a gpu block",
            )
        )
    return min(fitting, MAX_VGPUS), NOTHING


def _matching(config: PluginConfig, gpu: Gpu) -> _Matching:
    ranked = ((_rank(block.selector, gpu), block) for block in config.gpu)
    return [(rank, block) for rank, block in ranked if rank is not None]


def _rank(selector: str, gpu: Gpu) -> _Rank | None:
    """How special a selector is for a GPU, or None if it is for others."""
    wanted = selector.lower()
    if wanted == gpu.uuid.lower():
        return _Rank(_UUID, 0)
    if gpu.parent_uuid is not None and wanted == gpu.parent_uuid.lower():
        return _Rank(_PARENT, 0)
    place = _place(wanted)
    if place is not None:
        return _Rank(_BUS, 0) if _is_at(place, gpu) else None
    if _pattern(wanted).fullmatch(gpu.model.lower()):
        return _Rank(_MODEL, sum(letter not in _WILDCARDS for letter in wanted))
    return None


class _Place(NamedTuple):
    """A place on the PCI bus, however it was spelled: NVML's domains have eight digits."""

    domain: int
    bus: int
    device: int


def _place(bus_id: str) -> _Place | None:
    match = _BUS_ID.fullmatch(bus_id)
    return None if match is None else _Place(*(int(part, 16) for part in match.groups()))


def _is_at(place: _Place, gpu: Gpu) -> bool:
    here = _place(gpu.pci_bus_id or "")
    # Where NVML's domain has 32 bits, the kernel may know its lower 16 only.
    return here in (place, place._replace(domain=place.domain & 0xFFFF))


@lru_cache(maxsize=256)
def _pattern(glob: str) -> re.Pattern[str]:
    """A glob as a regular expression: only `*` and `?` are special, because names have brackets."""
    import fnmatch  # noqa: PLC0415  few nodes have blocks for models

    # The library's does not try each star against each other, which takes for ever with twenty.
    return re.compile(fnmatch.translate(glob.replace("[", "[[]")))
