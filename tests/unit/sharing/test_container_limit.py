# SPDX-License-Identifier: MPL-2.0
"""When the driver can hold a container to its share, and what a task is then told."""

from __future__ import annotations

from functools import partial

import pytest

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device.fingerprint import device_groups
from nomad_nvidia_vgpu.device.reserve import reserve
from nomad_nvidia_vgpu.gpu.model import Gpu
from nomad_nvidia_vgpu.host.toolkit import Toolkit
from nomad_nvidia_vgpu.sharing.container_limit import LIMIT_ENV, REQUEST_ENV, within_means
from nomad_nvidia_vgpu.sharing.plan import make_plan
from unit.example_gpus import gpu, inventory, mig

WANTED = PluginConfig(vgpus=4, memory_isolation="cgroup")
ABLE = Toolkit((1, 20, 1), unified_cgroups=True)
NEW, OLD = "615.10", "580.95.05"


def isolation(config: PluginConfig, *gpus: Gpu) -> list[object]:
    """What the attribute of each group says."""
    groups = device_groups(make_plan(config, inventory(*gpus)), config.vendor)
    return [group.attributes["memory_isolation"].value for group in groups]


@pytest.mark.parametrize(
    ("toolkit", "asked", "words"),
    [
        (Toolkit(None, unified_cgroups=True), WANTED, ["does not say"]),
        (Toolkit((1, 20, 0), unified_cgroups=True), WANTED, ["1.20.0 is here"]),
        (Toolkit((1, 21), unified_cgroups=False), WANTED, ["v1"]),
        (ABLE, WANTED._replace(device_nodes="cdi"), ["device_nodes"]),
        (Toolkit(None, unified_cgroups=False), WANTED, ["toolkit", "cgroup v2"]),
    ],
)
def test_what_the_node_lacks_is_said_and_nothing_asked_for(
    toolkit: Toolkit, asked: PluginConfig, words: list[str]
) -> None:
    """A container that was told its limit would not start, or not be held."""
    config, problems = within_means(asked, lambda: toolkit)
    assert config.memory_isolation == "none"
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems, strict=True))
    assert all(problem.remedy for problem in problems)


def test_a_node_that_can_keeps_its_config() -> None:
    """A newer toolkit can too; where nobody asks, nobody looks."""
    for version in ((1, 20, 1), (1, 21), (2, 0, 0)):
        newer = ABLE._replace(version=version)
        assert within_means(WANTED, partial(newer._replace)) == (WANTED, [])

    def look() -> Toolkit:
        raise AssertionError

    config = PluginConfig(vgpus=4)
    assert within_means(config, look) == (config, ())


def test_a_task_is_told_the_smallest_of_its_shares() -> None:
    """The toolkit takes one number for all GPUs of a container."""
    plan = make_plan(
        WANTED,
        inventory(
            gpu("GPU-a", memory_mib=40000, driver_version=NEW),
            gpu("GPU-b", memory_mib=80000, driver_version=NEW),
        ),
    )
    envs = reserve(WANTED, plan, ["GPU-b-0", "GPU-b-1"]).envs
    assert (envs[LIMIT_ENV], envs[REQUEST_ENV]) == ("40000", "40000")
    envs = reserve(WANTED, plan, ["GPU-a-0", "GPU-b-0", "GPU-b-1"]).envs
    assert (envs[LIMIT_ENV], envs[REQUEST_ENV]) == ("10000", "10000")


def test_with_overcommit_the_limit_is_above_the_share() -> None:
    """The share is still asked for; the attribute promises nothing, for a neighbour may take it."""
    config = WANTED._replace(memory_overcommit=1.5)
    held = gpu("GPU-a", memory_mib=40000, driver_version=NEW)
    envs = reserve(config, make_plan(config, inventory(held)), ["GPU-a-0"]).envs
    assert (envs[LIMIT_ENV], envs[REQUEST_ENV]) == ("15000", "10000")
    assert isolation(config, held) == ["none"]


def test_the_attribute_says_who_holds_the_share() -> None:
    """The driver where it can, and the guard where it cannot; a GPU of one task needs neither."""
    guarded = WANTED._replace(memory_guard=WANTED.memory_guard._replace(action="kill"))
    new, old = gpu("GPU-a", driver_version=NEW), gpu("GPU-a", driver_version=OLD)
    assert isolation(guarded, new) == ["cgroup"]
    assert isolation(guarded, old) == ["guard"]
    assert isolation(WANTED, old) == ["none"]
    assert isolation(WANTED._replace(vgpus=1), new) == ["whole"]


@pytest.mark.parametrize(
    "not_held",
    [
        mig("MIG-a", "GPU-a", driver_version=NEW),
        gpu("GPU-a", driver_version=NEW, memory_mib=None),
        gpu("GPU-a", driver_version=NEW, unified_memory=True),
        gpu("GPU-a", driver_version=NEW, simulated=True),
        gpu("GPU-a", driver_version=OLD),
        gpu("GPU-a", driver_version=None),
    ],
    ids=["mig", "no-memory", "unified", "simulated", "old", "unknown"],
)
def test_a_gpu_that_the_driver_does_not_hold_brings_no_limit(not_held: Gpu) -> None:
    """The attribute stays what is true, and the container starts."""
    plan = make_plan(WANTED, inventory(not_held))
    assert isolation(WANTED, not_held) == ["none"]
    assert LIMIT_ENV not in reserve(WANTED, plan, [f"{not_held.uuid}-0"]).envs


def test_an_old_driver_is_said_once() -> None:
    """In the log, by `plan` and by `doctor`, which all show the plan's warnings."""
    old = [gpu(f"GPU-{letter}", driver_version=OLD) for letter in "ab"]
    (warning,) = make_plan(WANTED, inventory(*old)).warnings
    assert f"driver 615 or newer, and {OLD} runs" in warning
    assert make_plan(WANTED, inventory(gpu("GPU-a", driver_version=NEW))).warnings == ()
