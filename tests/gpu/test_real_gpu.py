# SPDX-License-Identifier: MPL-2.0
"""The plugin beside NVIDIA's own tool, on a real GPU. Prints what docs/gpu-validation.md records."""

from __future__ import annotations

import time

import pytest

from nomad_nvidia_vgpu.device.fingerprint import DeviceGroup
from nomad_nvidia_vgpu.rpc.client import Host

pytestmark = pytest.mark.gpu


def whole_gpus(groups: tuple[DeviceGroup, ...]) -> dict[object, DeviceGroup]:
    """The groups of GPUs that are not in MIG mode, by UUID."""
    return {g.attributes["gpu_uuid"].value: g for g in groups if "mig" not in g.attributes}


def test_attributes_agree_with_nvidia_smi(plugin: Host, nvidia_smi: list[dict[str, str]]) -> None:
    """Memory, power limit, clocks, versions and bus id are what the operator knows."""
    began = time.monotonic()
    groups = whole_gpus(next(plugin.fingerprints()))
    print(f"first fingerprint after {time.monotonic() - began:.3f} s")
    for row in nvidia_smi:
        if row["mig.mode.current"] == "Enabled":
            continue
        group = groups[row["uuid"]]
        shown = {name: a.value for name, a in group.attributes.items()}
        print(group.name, shown)
        assert shown["model"] == row["name"]
        assert shown["memory"] == int(row["memory.total"])
        assert shown["driver_version"] == row["driver_version"]
        assert shown["cuda_compute_capability"] == float(row["compute_cap"])
        for name, query in (
            ("power", "power.limit"),
            ("cores_clock", "clocks.max.sm"),
            ("memory_clock", "clocks.max.memory"),
        ):
            if name in shown:
                assert shown[name] == int(float(row[query]))
        assert row["pci.bus_id"].lower().endswith(str(shown["pci_bus_id"]))
        assert all(i.healthy for i in group.instances)


def test_stats_move_and_agree_with_nvidia_smi(
    plugin: Host, nvidia_smi: list[dict[str, str]]
) -> None:
    """Every vGPU has its GPU's memory, and the temperature is NVIDIA's within 10 degrees."""
    groups = whole_gpus(next(plugin.fingerprints()))
    figures = next(plugin.stats(1.0))
    for row in nvidia_smi:
        if row["mig.mode.current"] == "Enabled":
            continue
        group = groups[row["uuid"]]
        for instance in group.instances:
            stats = figures[group.name][instance.id]
            assert stats.stats["Memory state"].total == int(row["memory.total"])
            assert abs(float(stats.stats["Temperature"].value) - int(row["temperature.gpu"])) < 10
        print(group.name, {n: s[:3] for n, s in stats.stats.items()})


def test_a_reservation_names_the_gpu(plugin: Host, nvidia_smi: list[dict[str, str]]) -> None:
    """CUDA and the container runtime know it by this UUID."""
    group = next(plugin.fingerprints())[0]
    envs = plugin.reserve([i.id for i in group.instances[:2]]).envs
    assert envs["NVIDIA_VISIBLE_DEVICES"] == group.attributes["gpu_uuid"].value
    print(dict(envs))


def test_it_stops_within_a_second(plugin: Host) -> None:
    """With the driver open and stats running; Nomad kills after 2 s."""
    next(plugin.fingerprints())
    next(plugin.stats(1.0))
    stopped = plugin.stop()
    print(f"stopped after {stopped.seconds:.3f} s")
    assert not stopped.killed
    assert stopped.seconds < 1.0


def test_processes_can_be_listed(plugin: Host, nvidia_smi: list[dict[str, str]]) -> None:
    """The driver tells who uses each GPU, so that every vGPU shows its own memory."""
    groups = whole_gpus(next(plugin.fingerprints()))
    deadline = time.monotonic() + 60.0
    for figures in plugin.stats(1.0):
        shown = {
            row["uuid"]: [s.stats.get("vGPU memory") for s in figures[group.name].values()]
            for row in nvidia_smi
            if (group := groups.get(row["uuid"])) is not None
        }
        if all(all(of) for of in shown.values()):
            print({uuid: [stat and stat[:3] for stat in of] for uuid, of in shown.items()})
            return
        assert time.monotonic() < deadline, shown
