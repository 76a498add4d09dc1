# SPDX-License-Identifier: MPL-2.0
"""One look at all GPUs."""

from __future__ import annotations

import pytest

from nomad_nvidia_vgpu.errors import DriverError, GpuError
from nomad_nvidia_vgpu.gpu.model import GpuProcess, Inventory, Look, Signals
from nomad_nvidia_vgpu.gpu.survey import Survey, list_processes, survey
from unit.example_gpus import FULL_SAMPLE, gpu, inventory
from unit.gpu.scripted_source import ScriptedSource

A, B = gpu("GPU-a"), gpu("GPU-b")


def test_a_survey_has_every_gpu_and_its_sample() -> None:
    """All GPUs that answer are there, healthy, each with its figures."""
    assert survey(ScriptedSource(A, B)) == Survey(
        inventory(A, B), {"GPU-a": FULL_SAMPLE, "GPU-b": FULL_SAMPLE}, ()
    )


def test_a_node_without_gpus_is_empty() -> None:
    """A driver that counts no GPU makes an empty survey without problems."""
    assert survey(ScriptedSource()) == Survey(Inventory(), {}, ())


def test_a_gpu_that_will_not_answer_is_a_problem() -> None:
    """A GPU that does not say who it is is reported, and the others are there."""
    source = ScriptedSource(A, B)
    source.hide(0, GpuError("GPU 0: lost"))
    found = survey(source)
    assert found.inventory == inventory(B)
    assert found.problems == ("GPU 0: lost",)


def test_a_gpu_that_gives_no_figures_is_shown_without() -> None:
    """A GPU that says who it is and then gives no figures is there without any."""
    source = ScriptedSource(A)
    source.fail_samples(GpuError("GPU 0: lost"))
    assert survey(source) == Survey(inventory(A), {}, ())


def test_a_lasting_fault_is_seen_at_once() -> None:
    """A GPU whose driver asks for a reset is unhealthy at the one look, with what to do."""
    source = ScriptedSource(A)
    source.answer(0, Look("GPU-a", (A,), Signals(recovery_action=1)))
    (seen,) = survey(source).inventory.gpus
    assert seen.health.reason.startswith("GPU-a: the driver asks for a reset")
    assert seen.health.grave


def test_no_driver_is_an_error() -> None:
    """Without a usable driver there is nothing to survey, and the driver's sentence comes out."""
    source = ScriptedSource(A)
    source.driver(DriverError("install the driver"))
    with pytest.raises(DriverError, match=r"install the driver"):
        survey(source)


def test_processes_are_listed_where_they_are_known() -> None:
    """A GPU that nobody uses has none, and one that does not tell is left out."""
    source = ScriptedSource(A, B)
    running = [GpuProcess(7, 512, "compute")]
    source.listed = {"GPU-b": running}
    assert list_processes(source, inventory(A, B)) == {"GPU-a": (), "GPU-b": running}
    source.listed = GpuError("GPU 0: lost")
    assert list_processes(source, inventory(A, B)) == {}
