# SPDX-License-Identifier: MPL-2.0
"""Remembering which queries fail."""

from __future__ import annotations

import pytest

from nomad_nvidia_vgpu.gpu.nvml.record import FailedQuery, RecordedNvml
from unit.gpu.nvml import scripted_nvml
from unit.gpu.nvml.scripted_nvml import NO_TEXT, NVMLError, ScriptedNvml


def test_answers_and_errors_are_passed_on() -> None:
    """Whoever asks notices nothing."""
    record = RecordedNvml(ScriptedNvml(Count=3, UUID=NVMLError(scripted_nvml.GPU_IS_LOST)))
    assert record.nvmlDeviceGetCount() == 3
    assert record.answers == {"nvmlDeviceGetCount": 3}
    with pytest.raises(record.NVMLError):
        record.nvmlDeviceGetUUID("handle")
    assert record.NVML_ERROR_TIMEOUT == 10
    assert record.nvmlMemory_v2 == ScriptedNvml.nvmlMemory_v2


def test_what_fails_is_remembered_once() -> None:
    """Invalid UTF-8, too; draining begins again."""
    broken = NVMLError(scripted_nvml.UNKNOWN)
    record = RecordedNvml(ScriptedNvml(PowerUsage=broken, Name=NO_TEXT))
    for _ in range(2):
        with pytest.raises(NVMLError):
            record.nvmlDeviceGetPowerUsage("handle")
    with pytest.raises(UnicodeDecodeError):
        record.nvmlDeviceGetName("handle")
    assert record.drain() == (
        FailedQuery("nvmlDeviceGetPowerUsage", "error 999"),
        FailedQuery("nvmlDeviceGetName", "invalid UTF-8"),
    )
    assert record.drain() == ()


@pytest.mark.parametrize(
    "error",
    [scripted_nvml.NOT_SUPPORTED, scripted_nvml.FUNCTION_NOT_FOUND, scripted_nvml.NOT_FOUND],
)
def test_what_a_gpu_lacks_is_no_failure(error: int) -> None:
    """Every GPU lacks something."""
    record = RecordedNvml(ScriptedNvml(PowerUsage=NVMLError(error)))
    with pytest.raises(NVMLError):
        record.nvmlDeviceGetPowerUsage("handle")
    assert record.drain() == ()
