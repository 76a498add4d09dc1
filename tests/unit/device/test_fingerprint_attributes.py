# SPDX-License-Identifier: MPL-2.0
"""What the fingerprint says of a group."""

from __future__ import annotations

from typing import Any

import pytest

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device.fingerprint import (
    Attribute,
    DeviceGroup,
    Instance,
    device_groups,
)
from nomad_nvidia_vgpu.gpu.model import Gpu, SeenGpu
from nomad_nvidia_vgpu.sharing.plan import make_plan
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.sharing.withheld import WITHHELD, Holding
from unit.example_gpus import LOST, gpu, inventory, mig

UNITS = ["", "MiB", "W", "MHz", "MB/s"]


def group_of(*gpus: Gpu | SeenGpu, vgpus: int = 4, group_by: str = "model") -> DeviceGroup:
    """Gives the one group that these GPUs make."""
    # Nothing of unified memory is kept for the host, or the shares would have other names.
    config = PluginConfig(vgpus=vgpus, group_by=group_by, unified_memory_reserve_mib=0)
    plan = make_plan(config, inventory(*gpus))
    (group,) = device_groups(plan, "letmutx")
    return group


def differing(name: str, *values: Any) -> dict[str, Attribute]:
    """Gives the attributes of GPUs that differ in one fact."""
    gpus = (gpu(f"GPU-{i}", **{name: value}) for i, value in enumerate(values))
    return group_of(*gpus).attributes


def test_a_group_names_its_device() -> None:
    """A group has the vendor of the config, the type gpu and the name of the model."""
    group = group_of(gpu())
    assert (group.vendor, group.type, group.name) == ("letmutx", "gpu", "NVIDIA L4")


def test_every_vgpu_is_an_instance() -> None:
    """Each vGPU is an instance with its id, health, reason and the bus id of its GPU."""
    group = group_of(gpu("GPU-a"), SeenGpu(gpu("GPU-b", pci_bus_id=None), LOST), vgpus=2)
    assert group.instances == (
        Instance("GPU-a-0", True, "", "0000:07:00.0"),
        Instance("GPU-a-1", True, "", "0000:07:00.0"),
        Instance("GPU-b-0", False, LOST.reason, None),
        Instance("GPU-b-1", False, LOST.reason, None),
    )


def test_one_gpu_has_every_attribute() -> None:
    """A group of one GPU tells all facts of it, in Nomad's units."""
    assert group_of(gpu()).attributes == {
        "memory": Attribute(23034, "MiB"),
        "power": Attribute(72, "W"),
        "bar1": Attribute(32768, "MiB"),
        "driver_version": Attribute("580.95.05"),
        "cores_clock": Attribute(2040, "MHz"),
        "memory_clock": Attribute(6251, "MHz"),
        "pci_bandwidth": Attribute(31507, "MB/s"),
        "display_state": Attribute("Disabled"),
        "persistence_mode": Attribute("Enabled"),
        "model": Attribute("NVIDIA L4"),
        "vgpus": Attribute(4),
        "vgpu_memory": Attribute(5758, "MiB"),
        "sharing": Attribute("time-slicing"),
        "memory_isolation": Attribute("none"),
        "instances": Attribute(4),
        "healthy_instances": Attribute(4),
        "cuda_compute_capability": Attribute(8.9),
        "compute_capability": Attribute(8.9),
        "cuda_driver_version": Attribute(13.0),
        "architecture": Attribute("ada"),
        "gpu_uuid": Attribute("GPU-a"),
        "pci_bus_id": Attribute("0000:07:00.0"),
    }


def test_unknown_facts_are_left_out() -> None:
    """A GPU that tells nothing of itself has the attributes that are ours alone."""
    assert set(group_of(Gpu("GPU-a", "NVIDIA GPU")).attributes) == {
        "model",
        "vgpus",
        "sharing",
        "memory_isolation",
        "instances",
        "healthy_instances",
        "gpu_uuid",
    }


@pytest.mark.parametrize(
    ("fact", "attribute"),
    [
        ("power_limit_w", "power"),
        ("bar1_mib", "bar1"),
        ("cores_clock_mhz", "cores_clock"),
        ("memory_clock_mhz", "memory_clock"),
        ("pci_bandwidth_mb_s", "pci_bandwidth"),
        ("cuda_compute_capability", "cuda_compute_capability"),
        ("cuda_compute_capability", "compute_capability"),
        ("cuda_driver_version", "cuda_driver_version"),
    ],
)
def test_a_group_promises_the_least(fact: str, attribute: str) -> None:
    """Where GPUs differ in a number, the group has the smallest; none, if one has none."""
    assert differing(fact, 300, 100, 200)[attribute].value == 100
    assert attribute not in differing(fact, 300, None)
    assert differing(fact, 0, 5)[attribute].value == 0


@pytest.mark.parametrize(
    "fact", ["driver_version", "display_state", "persistence_mode", "architecture"]
)
def test_a_group_says_only_what_all_share(fact: str) -> None:
    """Where GPUs differ in a word, or one has none, the group does not have it."""
    assert differing(fact, "same", "same")[fact] == Attribute("same")
    assert fact not in differing(fact, "one", "other")
    assert fact not in differing(fact, "one", None)
    assert fact not in differing(fact, "", "")


@pytest.mark.parametrize("fact", ["unified_memory", "simulated"])
def test_truths_are_told_when_they_hold_for_all(fact: str) -> None:
    """What is special about a GPU is told when it is true of the whole group, never when false."""
    assert differing(fact, True, True)[fact] == Attribute(True)
    assert fact not in differing(fact, True, False)
    assert fact not in differing(fact, False)


def test_memory_is_that_of_the_smallest() -> None:
    """Cards of one model differ a little, as error correction takes its part of some."""
    assert differing("memory_mib", 15360, 15109)["memory"] == Attribute(15109, "MiB")
    assert "memory" not in differing("memory_mib", 15360, None)


def test_the_share_of_one_is_the_smallest() -> None:
    """The memory of one vGPU is that of the smallest GPU of the group."""
    assert differing("memory_mib", 440, 401)["vgpu_memory"] == Attribute(100, "MiB")


def test_instances_are_counted() -> None:
    """A group tells how many vGPUs it has and how many of them can be used."""
    attributes = group_of(gpu("GPU-a"), SeenGpu(gpu("GPU-b"), LOST), gpu("GPU-c")).attributes
    assert attributes["instances"] == Attribute(12)
    assert attributes["healthy_instances"] == Attribute(8)


def test_only_a_single_gpu_is_named() -> None:
    """A group of several GPUs has no UUID and no bus id, even if they share one."""
    attributes = group_of(gpu("GPU-a"), gpu("GPU-b")).attributes
    assert not {"gpu_uuid", "pci_bus_id"} & set(attributes)


@pytest.mark.parametrize(("vgpus", "isolation"), [(1, "whole"), (2, "none")])
def test_isolation_is_told(vgpus: int, isolation: str) -> None:
    """A group tells what holds a task to its share of the memory."""
    attributes = group_of(gpu(), vgpus=vgpus).attributes
    assert attributes["memory_isolation"] == Attribute(isolation)


def test_a_mig_device_tells_its_profile() -> None:
    """A MIG device tells its profile and is isolated by it."""
    attributes = group_of(mig("MIG-a"), vgpus=1).attributes
    assert attributes["mig"] == Attribute("3g.20gb")
    assert attributes["memory_isolation"] == Attribute("mig")


def test_a_group_is_isolated_as_its_weakest_gpu() -> None:
    """A group in which one GPU holds nobody to its share promises no isolation."""
    weak = mig("MIG-b", profile="1c.3g.20gb")
    strong = mig("MIG-a")
    same_name = {"model": "NVIDIA A100 MIG"}
    gpus = (
        gpu(
            device.uuid,
            parent_uuid="GPU-p",
            mig_profile=device.mig_profile,
            memory_mib=mib,
            **same_name,
        )
        for device, mib in ((strong, 10000), (weak, 30000))  # a third of which is its own
    )
    assert group_of(*gpus, vgpus=1).attributes["memory_isolation"] == Attribute("none")


def test_units_are_nomads() -> None:
    """No attribute has a unit that Nomad could not compare."""
    assert all(a.unit in UNITS for a in group_of(gpu()).attributes.values())


def test_nothing_that_moves_is_told() -> None:
    """Two fingerprints of the same GPUs are equal, so that nothing is sent in vain."""
    assert group_of(gpu()) == group_of(gpu())


def test_a_mig_device_of_unknown_profile_is_not_taken_to_be_isolated() -> None:
    """A MIG device whose profile is unknown promises nothing about its memory."""
    nameless = mig("MIG-a")._replace(mig_profile=None)
    attributes = group_of(nameless, vgpus=1).attributes
    assert attributes["memory_isolation"] == Attribute("none")
    assert "mig" not in attributes


def test_withheld_vgpus_are_unhealthy_instances() -> None:
    """They are published with the reason, and are not among the healthy ones."""
    old = Holding("t", None, frozenset({VgpuId("GPU-a", 9)}))
    plan = make_plan(PluginConfig(vgpus=4), inventory(gpu("GPU-a")), holdings=[old])
    (group,) = device_groups(plan, "letmutx")
    assert [instance.healthy for instance in group.instances] == [True, True, True, False]
    assert group.instances[3].health_description == WITHHELD
    assert group.attributes["instances"] == Attribute(4)
    assert group.attributes["healthy_instances"] == Attribute(3)


def loaded(*gpus: Gpu | SeenGpu, load: frozenset[VgpuId] = frozenset()) -> dict[str, Attribute]:
    """Gives the attributes of one group whose load is published."""
    config = PluginConfig(vgpus=4, publish_load=True)
    (group,) = device_groups(make_plan(config, inventory(*gpus), load=load), "letmutx")
    return group.attributes


def test_what_is_free_of_one_gpu_is_told_where_asked_for() -> None:
    """Under names that Nomad leaves out of a node's computed class."""
    attributes = loaded(gpu("GPU-a", memory_mib=4000), load=frozenset({VgpuId("GPU-a", 1)}))
    assert attributes["unique.free_vgpus"] == Attribute(3)
    assert attributes["unique.free_memory"] == Attribute(3000, "MiB")
    assert not [name for name in group_of(gpu()).attributes if name.startswith("unique.")]


def test_what_cannot_be_given_away_is_not_free() -> None:
    """An unhealthy GPU has nothing free."""
    assert loaded(SeenGpu(gpu("GPU-a"), LOST))["unique.free_vgpus"] == Attribute(0)


def test_a_group_of_several_gpus_tells_no_load() -> None:
    """It would be of none of them."""
    assert not [name for name in loaded(gpu("GPU-a"), gpu("GPU-b")) if name.startswith("unique.")]


def test_no_attribute_is_called_shared() -> None:
    """A scheduler of Nomad's to come would give one vGPU to any number of tasks."""
    assert "shared" not in loaded(gpu("GPU-a"))


def test_a_limit_above_the_share_is_told() -> None:
    """Where memory is overcommitted, and nowhere else."""
    config = PluginConfig(vgpus=4, memory_overcommit=1.5)
    (group,) = device_groups(make_plan(config, inventory(gpu(memory_mib=4000))), "letmutx")
    assert group.attributes["vgpu_memory"] == Attribute(1000, "MiB")
    assert group.attributes["vgpu_memory_limit"] == Attribute(1500, "MiB")
    assert "vgpu_memory_limit" not in group_of(gpu()).attributes
