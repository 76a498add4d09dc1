# SPDX-License-Identifier: MPL-2.0
"""Reading fingerprints: who is healthy, who is not and why, and waiting for it."""

from __future__ import annotations

import time

from nomad_nvidia_vgpu.device.fingerprint import DeviceGroup
from nomad_nvidia_vgpu.rpc.client import Host, InstanceStats, Stream

Groups = tuple[DeviceGroup, ...]


def healthy(groups: Groups) -> dict[str, bool]:
    """The health of each GPU, by UUID."""
    return {i.id.rpartition("-")[0]: i.healthy for g in groups for i in g.instances}


def reasons(groups: Groups) -> set[str]:
    """What the unhealthy vGPUs say."""
    return {i.health_description for g in groups for i in g.instances if not i.healthy}


def until(stream: Stream[Groups], wanted: int, seconds: float = 30.0) -> Groups:
    """The first fingerprint in which `wanted` GPUs are healthy."""
    deadline = time.monotonic() + seconds
    while True:
        groups = stream.next_within(max(0.1, deadline - time.monotonic()))
        if sum(healthy(groups).values()) == wanted:
            return groups


def first_figures(host: Host, seconds: float = 30.0) -> dict[str, dict[str, InstanceStats]]:
    """The first stats in which every vGPU has figures, by group and vGPU."""
    deadline = time.monotonic() + seconds
    stream = host.stats(0.1)
    while True:
        groups = next(stream)
        if all(figures.stats for group in groups.values() for figures in group.values()):
            return {name: dict(group) for name, group in groups.items()}
        assert time.monotonic() < deadline, f"not every vGPU had figures after {seconds} s"
