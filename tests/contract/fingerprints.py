# SPDX-License-Identifier: MPL-2.0
"""Reading fingerprints: who is healthy, who is not and why, and waiting for it."""

from __future__ import annotations

import time

from nomad_nvidia_vgpu.device.fingerprint import DeviceGroup
from nomad_nvidia_vgpu.rpc.client import Stream

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
