# SPDX-License-Identifier: MPL-2.0
"""Figures that cannot be are left out of a sample; the rest is there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nomad_nvidia_vgpu.gpu.figures import FIGURES
from nomad_nvidia_vgpu.gpu.model import GpuSample, Ratio
from nomad_nvidia_vgpu.gpu.nvml.asking import Asker
from nomad_nvidia_vgpu.gpu.nvml.sampling import Sampler
from unit.gpu.nvml import scripted_nvml
from unit.gpu.nvml.scripted_nvml import NVMLError, ScriptedNvml, memory

FIELDS = {figure.field for figure in FIGURES}

GOOD: dict[str, Any] = {
    "PowerUsage": 30500,
    "Temperature": 41,
    "UtilizationRates": SimpleNamespace(gpu=5, memory=7),
    "TotalEnergyConsumption": 9,
    "MemoryInfo": memory(23034, 100),
    "BAR1MemoryInfo": SimpleNamespace(bar1Used=2 << 20, bar1Total=256 << 20),
    "EncoderUtilization": [1, 1000],
    "DecoderUtilization": [2, 1000],
    "MemoryErrorCounter": 3,
}


def sample_of(**answers: Any) -> GpuSample:
    """Gives the sample of a GPU with these answers."""
    nvml = ScriptedNvml(**answers)
    return Sampler(nvml).take(Asker(nvml), "handle", "handle", 72)


def test_a_good_sample_is_whole() -> None:
    """Every figure is there."""
    assert sample_of(**GOOD).figures.keys() == FIELDS
    assert sample_of(**GOOD).power_w == Ratio(30, 72)


@pytest.mark.parametrize("number", [2**32 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("query", sorted(GOOD))
def test_a_figure_that_cannot_be_costs_itself(query: str, number: int) -> None:
    """Garbage with success takes its own figures away and no others."""
    garbage: Any = {
        "UtilizationRates": SimpleNamespace(gpu=number, memory=number),
        "MemoryInfo": SimpleNamespace(total=number, used=number),
        "BAR1MemoryInfo": SimpleNamespace(bar1Used=number, bar1Total=number),
        "EncoderUtilization": [number, 1000],
        "DecoderUtilization": [number, 1000],
    }.get(query, number)
    whole, found = sample_of(**GOOD), sample_of(**{**GOOD, query: garbage})
    lost = FIELDS - found.figures.keys()
    assert lost
    assert len(lost) <= 3
    kept = found.figures.keys()
    assert all(getattr(found, name) == getattr(whole, name) for name in kept)


def test_more_used_than_there_is_is_not_known() -> None:
    """A part is no larger than the whole."""
    assert sample_of(MemoryInfo=memory(100, 101)).memory_mib is None


def test_memory_in_use_leaves_the_drivers_part_out() -> None:
    """Where the driver can tell its own part of the memory, it does not count as used."""

    def answer(_handle: object, version: int | None = None) -> object:
        return memory(81559, 4 if version else 600)

    assert sample_of(MemoryInfo=answer).memory_mib == Ratio(4, 81559)


def test_memory_in_use_of_an_old_driver() -> None:
    """An old driver that cannot tell its own part still gives the memory in use."""

    def answer(_handle: object, version: int | None = None) -> object:
        return NVMLError(scripted_nvml.FUNCTION_NOT_FOUND) if version else memory(15360, 300)

    assert sample_of(MemoryInfo=answer).memory_mib == Ratio(300, 15360)
