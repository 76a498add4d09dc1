# SPDX-License-Identifier: MPL-2.0
"""What is published of each kind of node: the installed program, real pynvml, our library."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from libnvidia_ml.driver import FakeDriver

from nomad_nvidia_vgpu.device.fingerprint import DeviceGroup

from .conftest import PATIENCE_S, Start, fact
from .fingerprints import first_figures, until


def values(group: DeviceGroup) -> dict[str, object]:
    """The attributes as plain values with their units."""
    return {n: f"{a.value} {a.unit}" if a.unit else a.value for n, a in group.attributes.items()}


def by_name(groups: tuple[DeviceGroup, ...]) -> dict[str, DeviceGroup]:
    """The groups by the name a job constrains."""
    return {group.name: group for group in groups}


def test_eight_h100_are_one_group_with_true_attributes(node: FakeDriver, start: Start) -> None:
    """The power limit and not the draw, the highest clocks, all of PCIe 5, words for states."""
    node.load("h100x8")
    (group,) = until(start(node, vgpus=16).fingerprints(), 8)
    assert (group.vendor, group.type, group.name) == ("letmutx", "gpu", "NVIDIA H100 80GB HBM3")
    assert len(group.instances) == 128
    assert values(group) == {
        "memory": "81559 MiB",
        "power": "700 W",
        "bar1": "131072 MiB",
        "driver_version": "590.48.01",
        "cores_clock": "1980 MHz",
        "memory_clock": "2619 MHz",
        "pci_bandwidth": "63015 MB/s",
        "display_state": "Enabled",
        "persistence_mode": "Enabled",
        "model": "NVIDIA H100 80GB HBM3",
        "vgpus": 16,
        "vgpu_memory": "5097 MiB",
        "sharing": "time-slicing",
        "memory_isolation": "none",
        "instances": 128,
        "healthy_instances": 128,
        "cuda_compute_capability": 9.0,
        "compute_capability": 9.0,
        "cuda_driver_version": 13.1,
        "architecture": "hopper",
    }


def test_ids_and_bus_ids_have_the_forms_that_nomad_compares(node: FakeDriver, start: Start) -> None:
    """Ids are stored in allocations; bus ids are matched against sysfs, letter by letter."""
    node.load("mixed")
    groups = until(start(node, vgpus=2).fingerprints(), 4)
    instances = [i for group in groups for i in group.instances]
    assert all(re.fullmatch(r"GPU-[0-9a-f-]{36}-[01]", i.id) for i in instances)
    buses = {i.pci_bus_id for i in instances}
    assert all(re.fullmatch(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.0", str(b)) for b in buses)
    assert any(re.search(r":[0-9a-f]?[a-f]", str(b)) for b in buses), "a bus with letters"
    assert any(not str(b).startswith("0000:") for b in buses), "a domain that is not 0"


def test_two_models_are_two_groups(node: FakeDriver, start: Start) -> None:
    """An affinity to a model needs groups that are of one model."""
    node.load("mixed")
    groups = by_name(until(start(node, vgpus=2).fingerprints(), 4))
    assert len(groups) >= 2
    assert all(values(g)["model"] == name for name, g in groups.items())


def test_one_group_per_gpu_when_asked(node: FakeDriver, start: Start) -> None:
    """`count = 2` then lands on one GPU."""
    node.load("h100x8")
    groups = until(start(node, vgpus=2, group_by="gpu").fingerprints(), 8)
    assert len(groups) == 8
    for group in groups:
        shown = values(group)
        assert group.name == f"{shown['model']}/{shown['gpu_uuid']}"
        assert {i.pci_bus_id for i in group.instances} == {shown["pci_bus_id"]}


def test_mig_devices_are_gpus_of_their_own_and_their_parent_is_not(
    node: FakeDriver, start: Start
) -> None:
    """A parent in MIG mode runs nothing itself."""
    node.load("a100_mig")
    parent = fact(node, "gpu 0", "uuid")
    groups = by_name(until(start(node, vgpus=1).fingerprints(), 3))
    mig = groups["NVIDIA A100-SXM4-40GB MIG 3g.20gb"]
    assert [i.id for i in mig.instances] == sorted(
        f"{fact(node, section, 'uuid')}-0" for section in ("mig 0.0", "mig 0.2")
    )
    shown = values(mig)
    assert shown["memory"] == "19968 MiB"
    assert shown["mig"] == "3g.20gb"
    assert shown["memory_isolation"] == "mig"
    assert {i.pci_bus_id for i in mig.instances} == {f"0000:{bus(node, 'gpu 0')}"}
    whole = groups["NVIDIA A100-SXM4-40GB"]
    assert values(whole)["memory_isolation"] == "whole"
    assert not any(parent in i.id for g in groups.values() for i in g.instances)


def bus(node: FakeDriver, section: str) -> str:
    """`07:00.0` of a profile's `0:07:0`."""
    _domain, number, device = (int(part, 16) for part in fact(node, section, "pci").split(":"))
    return f"{number:02x}:{device:02x}.0"


def test_compute_instances_that_share_memory_promise_no_isolation(
    node: FakeDriver, start: Start
) -> None:
    """Two compute instances of one GPU instance see the same memory."""
    node.load("a100_mig_subsliced")
    groups = until(start(node, vgpus=1).fingerprints(), 3)
    isolation = {values(g).get("mig"): values(g)["memory_isolation"] for g in groups}
    assert any("c." in str(profile) for profile in isolation)
    for profile, held in isolation.items():
        assert held == ("none" if "c." in str(profile) else "mig" if profile else "whole")


def test_a_parents_uuid_ignores_its_mig_devices(node: FakeDriver, start: Start) -> None:
    """An operator ignores a card, whatever it is cut into."""
    node.load("a100_mig")
    host = start(node, vgpus=1, ignored_gpu_ids=[fact(node, "gpu 0", "uuid").upper()])
    (group,) = until(host.fingerprints(), 1)
    assert group.name == "NVIDIA A100-SXM4-40GB"


def test_a_gpu_without_memory_of_its_own_offers_the_systems(node: FakeDriver, start: Start) -> None:
    """GB10 answers "not supported" to every question about memory."""
    node.load("gb10")
    total_kib = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0])
    (group,) = until(start(node, vgpus=4).fingerprints(), 1)
    shown = values(group)
    assert shown["memory"] == f"{total_kib // 1024} MiB"
    assert shown["unified_memory"] is True
    assert not {"bar1", "power", "pci_bandwidth"} & set(shown)


def test_grace_hopper_has_its_own_memory(node: FakeDriver, start: Start) -> None:
    """GH200 lacks BAR1 alone."""
    node.load("gh200")
    (group,) = until(start(node, vgpus=4).fingerprints(), 1)
    shown = values(group)
    assert shown["memory"] == f"{fact(node, 'gpu 0', 'memory_total_mib')} MiB"
    assert "bar1" not in shown
    assert "unified_memory" not in shown


def test_an_old_driver_without_the_newer_symbols_will_do(
    old_library: Path, tmp_path: Path, start: Start
) -> None:
    """Driver 470 lacks the second form of the memory query and more."""
    node = FakeDriver(old_library, tmp_path, "t4_old")
    host = start(node, vgpus=4)
    (group,) = until(host.fingerprints(), 1)
    assert group.name == "Tesla T4"
    assert values(group)["memory"] == f"{fact(node, 'gpu 0', 'memory_total_mib')} MiB"
    figures = next(iter(first_figures(host)["Tesla T4"].values()))
    assert figures.summary.total == int(fact(node, "gpu 0", "memory_total_mib"))


def test_what_a_gpu_does_not_tell_is_left_out(node: FakeDriver, start: Start) -> None:
    """A guest of NVIDIA's hypervisor product supports next to nothing, and is offered all the same."""
    node.load("vgpu_guest")
    host = start(node, vgpus=2)
    (group,) = until(host.fingerprints(), 1)
    assert all(i.healthy for i in group.instances)
    assert not {"power", "bar1", "cores_clock", "pci_bandwidth"} & set(values(group))
    figures = next(iter(first_figures(host)[group.name].values()))
    assert "Power usage" not in figures.stats
    assert figures.summary[:2] == (0, 49152)


def test_a_node_without_gpus_publishes_an_empty_set(node: FakeDriver, start: Start) -> None:
    """And keeps the stream, because a GPU may come."""
    stream = start(node, vgpus=2).fingerprints()
    assert next(stream) == ()
    node.load("h100x8")
    (group,) = stream.next_within(PATIENCE_S)
    assert group.name == "NVIDIA H100 80GB HBM3"


def test_odd_names_are_made_fit_for_nomad(node: FakeDriver, start: Start) -> None:
    """A bar breaks Nomad's tables, and bytes that are no UTF-8 break its API."""
    node.load("odd_names")
    groups = until(start(node, vgpus=1).fingerprints(), 4)
    assert groups
    for group in groups:
        assert group.name.isprintable()
        assert "|" not in group.name
        assert group.name


@pytest.mark.parametrize("vgpus", [1, 3])
def test_whole_gpus_are_whole_only_when_not_divided(
    node: FakeDriver, start: Start, vgpus: int
) -> None:
    """A job can demand `memory_isolation`, so it must be true."""
    node.load("h100x8")
    (group,) = until(start(node, vgpus=vgpus).fingerprints(), 8)
    assert values(group)["memory_isolation"] == ("whole" if vgpus == 1 else "none")
