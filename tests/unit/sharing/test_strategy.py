# SPDX-License-Identifier: MPL-2.0
"""The ways to share a GPU."""

from __future__ import annotations

import pytest

from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.sharing.enforcement import IN_FORCE, STARTING, Enforcement
from nomad_nvidia_vgpu.sharing.strategy import ISOLATION, STRATEGIES
from unit.example_gpus import gpu, mig


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("vgpus", [1, 2, 256])
def test_every_strategy_uses_known_words(name: str, vgpus: int) -> None:
    """Whatever holds the memory is one of the words that the fingerprint can order."""
    for card in (gpu(), mig("MIG-a"), mig("MIG-b", profile="1c.3g.20gb")):
        for enforcement in (IN_FORCE, STARTING, Enforcement(weakness=Problem("odd"))):
            assert STRATEGIES[name].memory_isolation(card, vgpus, enforcement) in ISOLATION


def test_nothing_is_weaker_than_agreement() -> None:
    """The words are ordered from the weakest, which is no isolation at all."""
    assert ISOLATION[0] == "none"
