# SPDX-License-Identifier: MPL-2.0
"""Who uses what, found out beside the running plugin."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import DriverError, GpuError
from nomad_nvidia_vgpu.gpu.model import GpuProcess
from nomad_nvidia_vgpu.tasks.observer import Observer
from unit.example_gpus import FULL_SAMPLE, gpu
from unit.gpu.scripted_source import ScriptedSource
from unit.host.made_proc import MadeProc, nomad_v2
from unit.tasks.attributing import claims

CONFIG = PluginConfig(vgpus=2)
A, B = gpu("GPU-a"), gpu("GPU-b")


def test_a_look_has_gpus_figures_and_tasks(tmp_path: Path) -> None:
    """The plan that the plugin would make, the newest figures, and who uses the GPUs."""
    made = MadeProc(tmp_path)
    made.add(70, cgroup=nomad_v2(task="infer"), environment=claims("GPU-a-1"))
    source = ScriptedSource(A, B)
    source.listed = {"GPU-a": [GpuProcess(70, 512, "compute"), GpuProcess(71, 5, "compute")]}
    seen = Observer(CONFIG, source, made.proc).look()
    assert set(seen.plan.by_uuid()) == {"GPU-a", "GPU-b"}
    assert seen.samples == {"GPU-a": FULL_SAMPLE, "GPU-b": FULL_SAMPLE}
    (share,) = seen.usage.shares
    assert (share.task.name, share.vgpu_ids, share.used_mib) == ("infer", ("GPU-a-1",), 512)
    assert seen.usage.gpus["GPU-b"].shares == ()


def test_a_gpu_that_will_not_answer_is_a_problem(tmp_path: Path) -> None:
    """It is named, and the others are shown."""
    source = ScriptedSource(A, B)
    source.answer(0, GpuError("GPU 0: lost"))
    seen = Observer(CONFIG, source, MadeProc(tmp_path).proc).look()
    assert seen.problems == ("GPU 0: lost",)
    assert set(seen.plan.by_uuid()) == {"GPU-b"}


def test_no_driver_is_an_error(tmp_path: Path) -> None:
    """Its sentence comes out, as of the other commands."""
    source = ScriptedSource(A)
    source.driver(DriverError("install the driver"))
    with pytest.raises(DriverError, match="install the driver"):
        Observer(CONFIG, source, MadeProc(tmp_path).proc).look()


def test_looks_follow_each_other(tmp_path: Path) -> None:
    """The driver is opened again at need, and who has gone is not shown any more."""
    made = MadeProc(tmp_path)
    made.add(70, cgroup=nomad_v2(), environment=claims("GPU-a-1"))
    source = ScriptedSource(A)
    source.listed = {"GPU-a": [GpuProcess(70, 512, "compute")]}
    observer = Observer(CONFIG, source, made.proc)
    assert len(observer.look().usage.shares) == 1
    source.listed = {"GPU-a": []}
    assert observer.look().usage.shares == ()
