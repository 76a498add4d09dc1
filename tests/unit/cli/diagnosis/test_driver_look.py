# SPDX-License-Identifier: MPL-2.0
"""One look at the driver; over NVML it is tested in `contract`."""

from __future__ import annotations

import ctypes

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.driver_look import PhysicalGpu, look_at_driver
from nomad_nvidia_vgpu.gpu.profiles import parse_simulated
from unit.gpu.nvml import scripted_nvml
from unit.gpu.nvml.scripted_nvml import NVMLError, ScriptedNvml


def test_simulated_gpus_are_looked_at_as_others() -> None:
    """MIG devices by their physical GPU."""
    look = look_at_driver([parse_simulated("a100-sxm4-40gb:1:3g.20gb,3g.20gb")])
    (gpu,) = look.physical
    assert look.simulated
    assert gpu.mig
    assert sorted(gpu.parts) == [seen.gpu.uuid for seen in look.inventory.gpus]


def test_a_gpu_is_in_mig_mode_if_it_is_offered_in_parts() -> None:
    """None of them counts too."""
    assert not PhysicalGpu("GPU-a", ("GPU-a",)).mig
    assert PhysicalGpu("GPU-a", ("MIG-a",)).mig
    assert PhysicalGpu("GPU-a", ()).mig


def scripted(monkeypatch: pytest.MonkeyPatch, **answers: object) -> ScriptedNvml:
    """Puts this in the place of pynvml."""
    nvml = ScriptedNvml(InitWithFlags=None, GetCount=1, **answers)
    monkeypatch.setitem(__import__("sys").modules, "pynvml", nvml)
    return nvml


def test_queries_that_fail_are_told_by_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not supported is none of them; a pending MIG mode is seen."""
    scripted(
        monkeypatch,
        SystemGetDriverVersion="590.48.01",
        Count=1,
        HandleByIndex=ctypes.pointer(ctypes.c_int()),
        UUID="GPU-a",
        MigMode=(0, 1),
        PowerUsage=NVMLError(scripted_nvml.UNKNOWN),
        Name=NVMLError(scripted_nvml.UNKNOWN),
    )
    look = look_at_driver(())
    (gpu,) = look.physical
    assert look.version == "590.48.01"
    assert (gpu.uuid, gpu.parts, gpu.mig_pending) == ("GPU-a", ("GPU-a",), True)
    assert {failure.query for failure in gpu.failed} == {
        "nvmlDeviceGetName",
        "nvmlDeviceGetPowerUsage",
    }


def test_a_driver_that_does_not_open_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the plugin's own words, and no exception."""
    nvml = scripted(monkeypatch)
    nvml.set(InitWithFlags=NVMLError(scripted_nvml.DRIVER_NOT_LOADED))
    assert "modprobe nvidia" in look_at_driver(()).problem


def test_gpus_that_cannot_be_counted_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was learnt of the driver before that stays."""
    scripted(
        monkeypatch,
        SystemGetDriverVersion="590.48.01",
        Count=NVMLError(scripted_nvml.UNKNOWN),
    )
    look = look_at_driver(())
    assert "cannot be counted" in look.problem
    assert look.version == "590.48.01"
