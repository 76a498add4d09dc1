# SPDX-License-Identifier: MPL-2.0
"""The checks of the GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.diagnosis import check_gpus
from nomad_nvidia_vgpu.cli.diagnosis.driver_look import PhysicalGpu
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level, Verdict
from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.gpu.model import SeenGpu
from nomad_nvidia_vgpu.gpu.nvml.record import FailedQuery
from unit.cli.diagnosis.nodes import assert_one, driver, facts, levels
from unit.example_gpus import LOST, gpu, mig

ALL = [
    check_gpus.answers,
    check_gpus.health,
    check_gpus.queries,
    check_gpus.mig,
    check_gpus.division,
]


@pytest.mark.parametrize("check", ALL)
def test_good_gpus_are_ok(tmp_path: Path, check: Callable[[Facts], Iterable[Verdict]]) -> None:
    """One verdict each, and no remedy."""
    assert_one(check, facts(tmp_path, look=driver(gpu("GPU-a"), gpu("GPU-b"))), Level.OK)


@pytest.mark.parametrize("check", ALL)
def test_without_a_driver_nothing_is_judged(
    tmp_path: Path, check: Callable[[Facts], Iterable[Verdict]]
) -> None:
    """Its absence has a finding of its own, and "ok" would be a lie."""
    assert (
        levels(check, facts(tmp_path, look=driver(problem=Problem("no driver", "install it"))))
        == []
    )


def test_a_gpu_that_does_not_say_who_it_is_is_an_error(tmp_path: Path) -> None:
    """The others are listed all the same."""
    look = driver(gpu(), problems=(Problem("GPU 1: lost", "reboot"),))
    assert levels(check_gpus.answers, facts(tmp_path, look=look)) == [Level.ERROR, Level.OK]


def test_no_gpu_is_a_warning(tmp_path: Path) -> None:
    """A node of a fleet may have none."""
    assert_one(check_gpus.answers, facts(tmp_path), Level.WARNING, "lists no GPU")
    assert all(Level.OK not in levels(check, facts(tmp_path)) for check in ALL)


def test_an_unhealthy_gpu_is_an_error_with_its_reason(tmp_path: Path) -> None:
    """Cause and remedy are those of the plugin."""
    look = driver(SeenGpu(gpu("GPU-x"), LOST))
    assert_one(
        check_gpus.health,
        facts(tmp_path, look=look),
        Level.ERROR,
        "GPU-x: lost",
        "| drain the node",
    )


def test_a_query_that_fails_is_a_warning_that_names_it(tmp_path: Path) -> None:
    """The plugin leaves the figure out, and nobody would know why."""
    broken = PhysicalGpu("GPU-a", ("GPU-a",), (FailedQuery("nvmlDeviceGetPowerUsage", "Unknown"),))
    look = driver(gpu("GPU-a"), physical=(broken,))
    known = facts(tmp_path, look=look)
    assert_one(
        check_gpus.queries, known, Level.WARNING, "GPU-a", "nvmlDeviceGetPowerUsage (Unknown)"
    )
    silent = look._replace(physical=(PhysicalGpu("GPU-a", ("GPU-a",), sampled=False),))
    assert_one(check_gpus.queries, facts(tmp_path, look=silent), Level.WARNING, "figures")


def test_a_gpu_without_known_memory_is_a_warning(tmp_path: Path) -> None:
    """No share can be told of it."""
    known = facts(tmp_path, look=driver(gpu(memory_mib=None)))
    assert_one(check_gpus.queries, known, Level.WARNING, "memory")


def test_mig_devices_are_counted(tmp_path: Path) -> None:
    """By physical GPU."""
    known = facts(tmp_path, look=driver(mig("MIG-a"), mig("MIG-b")))
    assert_one(check_gpus.mig, known, Level.OK, "GPU-p is cut into 2 MIG devices")


def test_mig_mode_without_devices_is_a_warning(tmp_path: Path) -> None:
    """The GPU vanishes from Nomad without a word."""
    look = driver(physical=(PhysicalGpu("GPU-p", ()),))
    assert_one(check_gpus.mig, facts(tmp_path, look=look), Level.WARNING, "GPU-p", "offers nothing")


def test_a_mode_that_waits_for_a_reset_is_a_warning(tmp_path: Path) -> None:
    """nvidia-smi says so once, and then nobody does."""
    look = driver(gpu(), physical=(PhysicalGpu("GPU-a", ("GPU-a",), mig_pending=True),))
    assert levels(check_gpus.mig, facts(tmp_path, look=look)) == [Level.WARNING, Level.OK]


def test_a_gpu_that_cannot_be_divided_so_is_an_error(tmp_path: Path) -> None:
    """MPS takes 48 clients."""
    known = facts(tmp_path, options='vgpus = 100\nsharing = "mps"', look=driver(gpu()))
    assert_one(check_gpus.division, known, Level.ERROR, "100 vGPUs", "set vgpus to at most 48")


def test_what_is_odd_in_the_config_is_a_warning(tmp_path: Path) -> None:
    """A UUID that no GPU has is a slip of the pen."""
    options = 'vgpus = 2\nignored_gpu_ids = ["GPU-zzz"]'
    assert_one(
        check_gpus.division,
        facts(tmp_path, options=options, look=driver(gpu())),
        Level.WARNING,
        "zzz",
    )


def test_a_fault_is_not_told_twice(tmp_path: Path) -> None:
    """An unhealthy GPU is no matter of its division."""
    look = driver(SeenGpu(gpu("GPU-x"), LOST))
    assert_one(check_gpus.division, facts(tmp_path, look=look), Level.OK)
