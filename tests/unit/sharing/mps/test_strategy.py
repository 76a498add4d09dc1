# SPDX-License-Identifier: MPL-2.0
"""MPS without its daemons: who can be shared so, and what a task is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.config.blocks import GpuBlock, GpuConfig, MpsConfig
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import Problem, RequestError
from nomad_nvidia_vgpu.gpu.model import Gpu
from nomad_nvidia_vgpu.gpu.profiles import parse_simulated
from nomad_nvidia_vgpu.sharing.enforcement import IN_FORCE, Enforcement
from nomad_nvidia_vgpu.sharing.grant import Delivery, Grant, Mount
from nomad_nvidia_vgpu.sharing.mps.strategy import Mps
from unit.example_gpus import gpu, mig
from unit.gpu.scripted_source import ScriptedSource


def config(**mps: Any) -> PluginConfig:
    """Gives a config that shares by MPS with these options of the block."""
    return PluginConfig(vgpus=4, sharing="mps", mps=MpsConfig(**mps))


def deliver(granted: int, vgpus: int = 4, memory_mib: int | None = 1000, **mps: Any) -> Delivery:
    """Gives what a task with these vGPUs of a GPU is given."""
    return Mps().deliver(config(**mps), Grant(gpu(memory_mib=memory_mib), vgpus, granted))


@pytest.mark.parametrize("granted", [1, 3, 4])
def test_the_limits_follow_the_grant(granted: int) -> None:
    """K of N vGPUs are k/N of the memory and of the SMs, for the one GPU that the task sees."""
    assert deliver(granted) == Delivery(
        {
            "CUDA_MPS_PIPE_DIRECTORY": "/run/nvidia-vgpu/mps/GPU-a/pipe",
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={250 * granted}M",
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(25 * granted),
        }
    )


@given(vgpus=st.integers(1, 60))
def test_all_tasks_together_are_promised_at_most_the_gpu(vgpus: int) -> None:
    """N tasks with one vGPU each get at most 100 % of the SMs, and each at least 1 %."""
    percentage = int(deliver(1, vgpus).envs["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"])
    assert percentage >= 1
    assert vgpus * percentage <= 100


def test_a_limit_can_be_left_out() -> None:
    """Each limit has its option, and a GPU whose memory nobody knows has no memory limit."""
    assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT" not in deliver(1, memory_limit=False).envs
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in deliver(1, compute_limit=False).envs
    assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT" not in deliver(1, memory_mib=None).envs


def test_a_gpu_that_uses_the_systems_memory_has_no_memory_limit() -> None:
    """What MPS would limit there is unknown: nothing is promised."""
    delivered = Mps().deliver(config(), Grant(gpu(unified_memory=True), 4, 1))
    assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT" not in delivered.envs


def test_the_pipe_is_mounted_only_where_asked_for() -> None:
    """Mounts cost a task its volumes, so they are given only with the option."""
    assert deliver(1).mounts == ()
    pipe = "/srv/mps/GPU-a/pipe"
    assert deliver(1, mount=True, root="/srv/mps").mounts == (Mount(pipe, pipe, read_only=False),)


def test_a_simulated_gpu_has_no_pipe_to_mount() -> None:
    """It has no daemon, and a task whose mount is not there would not start."""
    delivered = Mps().deliver(config(mount=True), Grant(gpu(simulated=True), 4, 1))
    assert delivered.mounts == ()
    assert delivered.envs


def test_with_device_files_the_pipe_is_mounted_too() -> None:
    """There are mounts anyway, and a container sees the daemon by nothing else."""
    with_files = PluginConfig(vgpus=4, sharing="mps", device_nodes="cdi")
    pipe = "/run/nvidia-vgpu/mps/GPU-a/pipe"
    delivered = Mps().deliver(with_files, Grant(gpu(), 4, 1))
    assert delivered.mounts == (Mount(pipe, pipe, read_only=False),)


def test_a_grant_beyond_the_largest_is_refused_with_the_options_name() -> None:
    """The operator and the job's author both read what to change."""
    with pytest.raises(RequestError, match=r"at most 2 \(mps.max_vgpus_per_task\): lower count"):
        deliver(3, max_vgpus_per_task=2)


@pytest.mark.parametrize(
    ("cuda", "vgpus", "fits"),
    [(13.0, 48, True), (13.0, 49, False), (13.1, 60, True), (13.1, 61, False)],
)
def test_a_gpu_has_no_more_vgpus_than_its_server_takes_clients(
    cuda: float, vgpus: int, *, fits: bool
) -> None:
    """48 up to CUDA 13.0, 60 from 13.1; the sentence says which number would do."""
    problem = Mps().problem(gpu(cuda_driver_version=cuda), vgpus)
    assert (problem == "") is fits
    assert fits or "set vgpus to at most" in problem


def test_a_gpu_before_volta_cannot_be_held_to_shares() -> None:
    """Its MPS has no limits; the sentence names the other way."""
    assert 'set sharing to "time-slicing"' in Mps().problem(gpu(cuda_compute_capability=6.1), 2)
    assert Mps().problem(gpu(cuda_compute_capability=7.0), 2) == ""
    assert Mps().problem(gpu(cuda_compute_capability=None), 2) == ""


def test_memory_is_held_only_while_it_was_read_back() -> None:
    """`mps` says what is true now; hardware that holds more is not called less."""
    weak = Enforcement(weakness=Problem("odd"))
    assert Mps().memory_isolation(gpu(), 4, IN_FORCE) == "mps"
    assert Mps().memory_isolation(gpu(), 4, weak) == "none"
    assert Mps().memory_isolation(gpu(), 1, weak) == "whole"
    assert Mps().memory_isolation(mig("MIG-a"), 1, IN_FORCE) == "mig"
    assert Mps().memory_isolation(mig("MIG-a"), 2, weak) == "none"


def test_nothing_runs_for_simulated_gpus_nor_where_mps_never_was(tmp_path: Path) -> None:
    """A node that shares by time-slicing pays nothing; one that used MPS cleans up after it."""
    never, used = (
        PluginConfig(vgpus=2, mps=MpsConfig(root=str(tmp_path / "none"))),
        PluginConfig(vgpus=2, mps=MpsConfig(root=str(tmp_path))),
    )
    simulated = PluginConfig(vgpus=2, sharing="mps", simulate=(parse_simulated("l4"),))
    modes = ScriptedSource()
    assert Mps().enforcer(never, modes) is None
    assert Mps().enforcer(simulated, modes) is None
    assert Mps().enforcer(used, modes) is not None
    assert Mps().enforcer(config(), modes) is not None


@pytest.mark.parametrize(
    ("options", "card", "holds"),
    [
        ({}, gpu(), True),
        ({"memory_limit": False}, gpu(), False),
        ({"exclusive_process": False}, gpu(), False),
        ({"compute_limit": False}, gpu(), True),
        ({}, gpu(memory_mib=None), False),
        ({}, gpu(unified_memory=True), False),
        ({}, mig("MIG-1"), False),
    ],
)
def test_what_is_expected_is_what_the_config_can_hold(
    options: dict[str, Any], card: Gpu, holds: object
) -> None:
    """Who tries a config with `plan` or simulated GPUs must not read more than a node would offer."""
    assert Mps().expected(config(**options), card) == Enforcement(holds_memory=holds is True)


def test_a_priority_is_given_where_it_is_not_the_normal_one() -> None:
    """By the node's options, or by the block of some GPUs."""
    low = MpsConfig(priority="below-normal")
    config = PluginConfig(vgpus=4, sharing="mps", mps=low)
    card = gpu("GPU-a")
    assert Mps().deliver(config, Grant(card, 4, 1)).envs["CUDA_MPS_CLIENT_PRIORITY"] == "1"
    block = GpuBlock("GPU-a", GpuConfig(mps_priority="normal"))
    envs = Mps().deliver(config._replace(gpu=(block,)), Grant(card, 4, 1)).envs
    assert "CUDA_MPS_CLIENT_PRIORITY" not in envs
