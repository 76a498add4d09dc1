# SPDX-License-Identifier: MPL-2.0
"""Whose errors are whose, and what is said of them."""

from __future__ import annotations

import pytest

from nomad_nvidia_vgpu.gpu.nvml.asking import Asker, plausible
from unit.gpu.nvml import scripted_nvml
from unit.gpu.nvml.scripted_nvml import NO_TEXT, NVMLError, ScriptedNvml


@pytest.mark.parametrize(
    "code",
    [
        scripted_nvml.GPU_IS_LOST,
        scripted_nvml.RESET_REQUIRED,
        scripted_nvml.IRQ_ISSUE,
        scripted_nvml.UNINITIALIZED,
        scripted_nvml.DRIVER_NOT_LOADED,
    ],
)
def test_an_error_of_the_whole_gpu_goes_on(code: int) -> None:
    """A query that finds the GPU or the session gone says so instead of giving no value."""
    nvml = ScriptedNvml(Name=NVMLError(code))
    with pytest.raises(NVMLError):
        Asker(nvml)(nvml.nvmlDeviceGetName, "handle")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (NVMLError(scripted_nvml.NOT_SUPPORTED), None),
        (NVMLError(scripted_nvml.FUNCTION_NOT_FOUND), None),
        (NVMLError(scripted_nvml.NO_PERMISSION), "answers 'error 4' (4)"),
        (NVMLError(scripted_nvml.UNKNOWN), "answers 'error 999' (999)"),
        (NVMLError(scripted_nvml.INVALID_ARGUMENT), "answers 'error 2' (2)"),
        (NO_TEXT, "answers 'invalid UTF-8' (0)"),
    ],
    ids=str,
)
def test_an_error_of_one_query_is_one_value_and_one_line(
    error: Exception, line: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A query that fails gives no value, and the log names it once, unless it is just lacking."""
    caplog.set_level("INFO")
    nvml = ScriptedNvml(Name=error)
    told: set[tuple[str, str, int]] = set()
    for _ in range(3):
        assert Asker(nvml, "GPU-a", told)(nvml.nvmlDeviceGetName, "handle") is None
    wanted = [] if line is None else [f"GPU-a: nvmlDeviceGetName {line}: that value is left out"]
    assert caplog.messages == wanted


@pytest.mark.parametrize("value", [None, -1, 101, 2**32 - 1, 2**63, 2**64 - 1])
def test_a_number_that_cannot_be_is_none(value: int | None) -> None:
    """Neither beyond its bounds, nor a mark for what is not available."""
    assert plausible(value, 100) is None
    assert plausible(100, 100) == 100
    assert plausible(0, 100, least=1) is None
