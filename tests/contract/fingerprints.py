# SPDX-License-Identifier: MPL-2.0
"""Reading fingerprints: who is healthy, who is not and why, and waiting for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from nomad_nvidia_vgpu.device.fingerprint import DeviceGroup
from nomad_nvidia_vgpu.rpc.client import Host, InstanceStats, Stream

from .conftest import PATIENCE_S

Groups = tuple[DeviceGroup, ...]
_T = TypeVar("_T")


def healthy(groups: Groups) -> dict[str, bool]:
    """The health of each GPU, by UUID."""
    return {i.id.rpartition("-")[0]: i.healthy for g in groups for i in g.instances}


def reasons(groups: Groups) -> set[str]:
    """What the unhealthy vGPUs say."""
    return {i.health_description for g in groups for i in g.instances if not i.healthy}


def first_in(stream: Stream[_T], claim: Callable[[_T], bool]) -> _T:
    """The first message of which `claim` holds: others may come before it."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        message = stream.next_within(max(0.1, deadline - time.monotonic()))
        if claim(message):
            return message


def until(stream: Stream[Groups], wanted: int) -> Groups:
    """The first fingerprint in which `wanted` GPUs are healthy."""
    return first_in(stream, lambda groups: sum(healthy(groups).values()) == wanted)


def silent(stream: Stream[Groups], known: Groups, seconds: float) -> bool:
    """Whether nothing comes within so many seconds; the repeat that is owed once is nothing."""
    for _ in range(2):
        try:
            if stream.next_within(seconds) != known:
                return False
        except TimeoutError:
            return True
    return False


def first_figures(host: Host) -> dict[str, dict[str, InstanceStats]]:
    """The first stats in which every vGPU has figures, by group and vGPU."""
    groups = first_in(
        host.stats(0.1),
        lambda g: all(vgpu.stats for group in g.values() for vgpu in group.values()),
    )
    return {name: dict(group) for name, group in groups.items()}
