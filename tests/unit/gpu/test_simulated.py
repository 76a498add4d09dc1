# SPDX-License-Identifier: MPL-2.0
"""Simulated GPUs."""

from __future__ import annotations

import uuid

import pytest

from nomad_nvidia_vgpu.gpu.model import Gpu, GpuSample, Ratio
from nomad_nvidia_vgpu.gpu.profiles import PROFILES, parse_simulated
from nomad_nvidia_vgpu.gpu.simulated import SimulatedSource, _uuid
from unit.manual_clock import ManualClock

PINNED_UUIDS = [
    "GPU-4dd59cb6-ccf8-507f-a684-fadcc230774c",
    "GPU-2b62a4bd-f984-5f59-b640-6858509a7371",
    "GPU-09ab4097-8b81-5678-a951-49dea788ca34",
    "MIG-db8f09d3-ae37-5e12-b718-595237ba7719",
    "MIG-8304acdd-8096-531e-9958-25dfc701d6f4",
]


def source(*entries: str, clock: ManualClock | None = None) -> SimulatedSource:
    """Gives the source that `simulate` makes of these entries."""
    return SimulatedSource([parse_simulated(e) for e in entries], clock or ManualClock())


def gpus(simulated: SimulatedSource) -> list[Gpu]:
    """Gives all its GPUs, in order."""
    return [
        gpu
        for index in range(simulated.count())
        for gpu in simulated.look(simulated.find(index)).gpus
    ]


def test_uuids_never_change() -> None:
    """These UUIDs are in allocations of running clusters: no release may change them."""
    found = gpus(source("a100-sxm4-80gb:2", "l4", "a100-sxm4-40gb:1:3g.20gb,1c.3g.20gb"))
    assert [gpu.uuid for gpu in found] == PINNED_UUIDS


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_the_gpu_it_names(name: str) -> None:
    """A simulated GPU has the facts of its profile and says that it is simulated."""
    (gpu,) = gpus(source(name))
    profile = PROFILES[name]
    assert (gpu.model, gpu.memory_mib, gpu.power_limit_w) == (
        profile.model,
        profile.memory_mib,
        profile.power_limit_w,
    )
    assert gpu.simulated
    assert gpu.unified_memory is profile.unified_memory
    assert gpu.driver_version
    assert gpu.pci_bus_id


def test_the_rest_of_the_list_does_not_matter() -> None:
    """A GPU keeps its UUID when others are added before it, or more of its kind after it."""
    (alone,) = gpus(source("l4"))
    assert alone.uuid in {gpu.uuid for gpu in gpus(source("t4:3", "l4:5"))}


def test_uuids_and_bus_ids_are_distinct() -> None:
    """No two GPUs of a large node share a UUID, and no two physical ones a bus id."""
    many = source("l4:64", "l4:8", "t4:64", "a100-sxm4-40gb:4:3g.20gb,3g.20gb")
    found = gpus(many)
    assert many.count() == 140
    assert len({gpu.uuid for gpu in found}) == len(found)
    assert len({gpu.pci_bus_id for gpu in found}) == many.count()


def test_a_gpu_in_mig_mode_shows_its_devices() -> None:
    """A GPU with a MIG layout appears as its MIG devices and not itself."""
    mig = source("a100-sxm4-40gb:1:3g.20gb,2g.10gb")
    looked = mig.look(mig.find(0))
    assert [gpu.mig_profile for gpu in looked.gpus] == ["3g.20gb", "2g.10gb"]
    assert {gpu.parent_uuid for gpu in looked.gpus} == {looked.physical_uuid}
    assert looked.physical_uuid.startswith("GPU-")
    assert all(gpu.uuid.startswith("MIG-") for gpu in looked.gpus)
    assert looked.gpus[0].model == "NVIDIA A100-SXM4-40GB MIG 3g.20gb"


def test_mig_devices_have_their_part_of_the_memory() -> None:
    """A MIG device has the memory as measured, else its slices' part."""
    measured, computed = gpus(source("a100-sxm4-40gb:1:3g.20gb,1g.5gb"))
    assert measured.memory_mib == 19968
    assert computed.memory_mib == 5120


def test_looks_are_equal() -> None:
    """Looking twice finds the same, so that a simulated node is quiet."""
    simulated = source("l4")
    assert simulated.look(simulated.find(0)) == simulated.look(simulated.find(0))


def samples(simulated: SimulatedSource, clock: ManualClock) -> list[GpuSample]:
    """Gives a day of samples of the first GPU."""
    found: list[GpuSample] = []
    for _ in range(200):
        found += simulated.sample(simulated.find(0)).values()
        clock.advance(432.1)
    return found


@pytest.mark.parametrize("name", [*PROFILES, "a100-sxm4-40gb:1:3g.20gb"])
def test_figures_are_plausible(name: str) -> None:
    """No figure is ever negative, above a hundred percent, or above its total."""
    clock = ManualClock()
    for sample in samples(source(name, clock=clock), clock):
        for figure, value in sample.figures.items():
            if isinstance(value, Ratio):
                assert 0 <= value.value <= (value.total or value.value)
            elif figure.endswith("percent") and value is not None:
                assert 0 <= value <= 100


def test_figures_move() -> None:
    """Load, power and memory of a simulated GPU change with time."""
    clock = ManualClock()
    found = samples(source("l4", clock=clock), clock)
    assert len({sample.gpu_utilization_percent for sample in found}) > 10
    assert len({sample.memory_mib for sample in found}) > 10
    assert len({sample.power_w for sample in found}) > 10


def test_energy_is_what_the_power_adds_up_to() -> None:
    """Over a minute the energy grows by the mean power times a minute."""
    clock = ManualClock(1_000_000.0)
    simulated = source("l4", clock=clock)
    first = energy = sum(s.energy_mj or 0 for s in simulated.sample(simulated.find(0)).values())
    watts = []
    for _ in range(600):
        clock.advance(0.1)
        (sample,) = simulated.sample(simulated.find(0)).values()
        assert sample.power_w is not None
        assert sample.energy_mj is not None
        assert sample.energy_mj > energy
        energy = sample.energy_mj
        watts.append(sample.power_w.value)
    assert (energy - first) / 60_000 == pytest.approx(sum(watts) / len(watts), rel=0.02)


def test_figures_are_a_function_of_time() -> None:
    """At one moment a GPU has one set of figures, stamped with that moment."""
    clock = ManualClock(1_700_000_000.0)
    simulated = source("l4", clock=clock)
    first = simulated.sample(simulated.find(0))
    assert first == simulated.sample(simulated.find(0))
    assert {sample.taken_at.timestamp() for sample in first.values()} == {1_700_000_000.0}


def test_mig_devices_have_no_utilization() -> None:
    """A MIG device gives no utilization, as NVML gives none while MIG is on."""
    mig = source("a100-sxm4-40gb:1:3g.20gb")
    (sample,) = mig.sample(mig.find(0)).values()
    assert sample.gpu_utilization_percent is None
    assert sample.memory_mib is not None


def test_a_card_without_ecc_counts_no_errors() -> None:
    """Where error correction is off, no errors are counted."""
    gaming = source("rtx-4090")
    (sample,) = gaming.sample(gaming.find(0)).values()
    assert sample.ecc_memory_errors is None


def test_nothing_runs_on_a_simulated_gpu() -> None:
    """Its processes are not known, which is not the same as having none."""
    assert source("l4").processes(source("l4").find(0)) == {}


def test_uuids_are_of_version_5() -> None:
    """As the library makes them, so that they stay the same over versions of this program."""
    space = uuid.UUID("6f0a1c5e-8b0d-5d0e-9b63-1d2a6c1c7a50")
    assert _uuid("GPU", "l4/0") == f"GPU-{uuid.uuid5(space, 'l4/0')}"
