# SPDX-License-Identifier: MPL-2.0
"""Queries of NVML with answers that a C library cannot be made to give.

What our fake of the driver's library can give is tested over it, in `contract`.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.errors import GpuError
from nomad_nvidia_vgpu.gpu.model import Gpu
from nomad_nvidia_vgpu.gpu.nvml.asking import Asker
from nomad_nvidia_vgpu.gpu.nvml.facts import (
    Reader,
    System,
    checked_uuid,
    clean,
    mig_slots,
    read_system,
)
from unit.example_gpus import L4
from unit.gpu.nvml import scripted_nvml
from unit.gpu.nvml.scripted_nvml import NO_TEXT, NVMLError, ScriptedNvml, memory

NOWHERE = Path("/nonexistent")


def gpu_of(meminfo: Path = NOWHERE, **answers: Any) -> Gpu:
    """Gives the GPU that a session with these answers reads."""
    return reader_of(meminfo, **answers).gpu("handle", "GPU-a")


def asking(**answers: Any) -> Asker:
    """Gives who asks a session with these answers."""
    return Asker(ScriptedNvml(**answers), "GPU-a")


def reader_of(meminfo: Path = NOWHERE, **answers: Any) -> Reader:
    """Gives the reader of a session with these answers."""
    return Reader(asking(**answers), System(), meminfo)


def test_a_gpu_that_supports_nothing_is_still_a_gpu() -> None:
    """With every query unsupported, a GPU has its UUID, a model and no invented facts."""
    found = gpu_of()
    assert found == Gpu("GPU-a", "NVIDIA GPU", unified_memory=True)


def test_a_name_that_is_no_text_is_left_out() -> None:
    """A name in bytes that are not UTF-8 costs the GPU its name and nothing else."""
    found = gpu_of(Name=NO_TEXT, MemoryInfo=memory(23034))
    assert (found.model, found.memory_mib) == ("NVIDIA GPU", 23034)


@pytest.mark.parametrize("uuid", ["", "GPU a", "GPU-a|b", "GPU-a\0", "GPU-\ud800", "é", "a" * 201])
def test_a_uuid_that_is_none_is_that_gpus_fault(uuid: str) -> None:
    """A UUID that could not be part of an id is refused as a failure of the GPU."""
    with pytest.raises(GpuError, match=r"as a UUID: reset the GPU"):
        checked_uuid(uuid)


@given(st.text(st.characters(exclude_categories=[])))
def test_any_name_becomes_fit_for_nomad(name: str) -> None:
    """Whatever a driver calls a GPU, its cleaned name is short, printable and without bars."""
    cleaned = clean(name)
    assert cleaned is None or (
        0 < len(cleaned) <= 128
        and cleaned.isprintable()
        and "|" not in cleaned
        and cleaned == cleaned.strip()
        and cleaned.encode()
    )


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("NVIDIA L4", "NVIDIA L4"),
        ("NVIDIA L4\0garbage", "NVIDIA L4"),
        ("  NVIDIA\t L4\n", "NVIDIA L4"),
        ("A|B", "A B"),
        ("", None),
        ("\0", None),
        (" | ", None),
        ("x" * 200, "x" * 128),
        (None, None),
    ],
)
def test_names_are_cleaned(name: str | None, cleaned: str | None) -> None:
    """What would break Nomad's tables goes, what can be read stays."""
    assert clean(name) == cleaned


@pytest.mark.parametrize(
    ("number", "version"), [(13000, 13.0), (12080, 12.8), (11020, 11.2), (10010, 10.1)]
)
def test_cudas_version_is_a_number(number: int, version: float) -> None:
    """NVML's number for the version of CUDA becomes the version as people write it."""
    system = read_system(
        asking(SystemGetCudaDriverVersion_v2=number, SystemGetDriverVersion="580.95.05")
    )
    assert system == System("580.95.05", version)


def test_a_driver_without_versions_is_no_failure() -> None:
    """Versions that the driver does not tell are left out."""
    assert read_system(asking(SystemGetDriverVersion=NO_TEXT)) == System()


@pytest.mark.parametrize("code", [scripted_nvml.NOT_SUPPORTED, scripted_nvml.FUNCTION_NOT_FOUND])
def test_a_gpu_without_mig_is_whole(code: int) -> None:
    """Where MIG is not supported, the GPU is not in MIG mode."""
    assert mig_slots(asking(MigMode=NVMLError(code)), "handle", None, known=False) is None


def test_a_gpu_with_mig_off_is_whole() -> None:
    """A GPU whose MIG mode is off, or on after the next reset only, is whole."""
    assert mig_slots(asking(MigMode=[0, 1]), "handle", None, known=False) is None


@pytest.mark.parametrize("code", [scripted_nvml.NO_PERMISSION, scripted_nvml.UNKNOWN])
def test_a_doubt_about_mig_is_an_error(code: int) -> None:
    """A GPU whose MIG mode cannot be told is not taken for a whole one."""
    with pytest.raises(NVMLError):
        mig_slots(asking(MigMode=NVMLError(code)), "handle", None, known=False)


def test_empty_mig_slots_are_passed_over() -> None:
    """MIG devices are found wherever they stand among empty slots."""

    def device(_handle: object, slot: int) -> object:
        return f"mig {slot}" if slot in (1, 5) else NVMLError(scripted_nvml.NOT_FOUND)

    ask = asking(MigMode=[1, 1], MaxMigDeviceCount=7, MigDeviceHandleByIndex=device)
    assert mig_slots(ask, "handle", None, known=False) == {1: "mig 1", 5: "mig 5"}


def test_a_failing_mig_slot_is_an_error() -> None:
    """A slot that fails for another reason than being empty hides no MIG device."""
    ask = asking(
        MigMode=[1, 1],
        MaxMigDeviceCount=7,
        MigDeviceHandleByIndex=NVMLError(scripted_nvml.UNKNOWN),
    )
    with pytest.raises(NVMLError):
        mig_slots(ask, "handle", None, known=False)
    with pytest.raises(NVMLError):
        mig_slots(ask, "handle", {3: "mig 3"}, known=True)


@pytest.mark.parametrize("before", [None, {3: "mig 3"}])
def test_what_is_known_of_mig_holds_while_the_driver_fails_to_tell(
    before: dict[int, str] | None,
) -> None:
    """A call that errs turns no GPU in MIG mode into a whole one, nor the other way round."""
    for code in (scripted_nvml.UNKNOWN, scripted_nvml.NOT_SUPPORTED, 2):
        ask = asking(MigMode=NVMLError(code))
        assert mig_slots(ask, "handle", before, known=True) == before


def test_a_mig_slot_that_fails_once_is_as_before() -> None:
    """One slot that errs is one slot: its device is known from before, and the rest answers."""

    def device(_handle: object, slot: int) -> object:
        return NVMLError(scripted_nvml.UNKNOWN) if slot == 1 else f"new {slot}"

    ask = asking(MigMode=[1, 1], MaxMigDeviceCount=2, MigDeviceHandleByIndex=device)
    found = mig_slots(ask, "handle", {0: "old 0", 1: "old 1"}, known=True)
    assert found == {0: "new 0", 1: "old 1"}


@pytest.mark.parametrize("slots", [2**32 - 1, NVMLError(scripted_nvml.INVALID_ARGUMENT)])
def test_a_number_of_mig_slots_that_cannot_be_is_the_usual_one(slots: object) -> None:
    """Nobody walks through four thousand million slots."""
    ask = asking(
        MigMode=[1, 1], MaxMigDeviceCount=slots, MigDeviceHandleByIndex=lambda _, slot: slot
    )
    assert list(mig_slots(ask, "handle", None, known=False) or ()) == list(range(7))


def test_a_mig_device_has_its_parents_facts() -> None:
    """What NVML tells of the physical GPU only is told of its MIG devices, too."""
    reader = reader_of(Name="NVIDIA A100 MIG 3g.20gb", UUID="MIG-a", MemoryInfo=memory(19968))
    found = reader.mig_device("handle", L4)
    assert (found.uuid, found.parent_uuid, found.mig_profile) == ("MIG-a", "GPU-a", "3g.20gb")
    assert (found.memory_mib, found.bar1_mib) == (19968, None)
    assert (found.power_limit_w, found.pci_bus_id) == (L4.power_limit_w, L4.pci_bus_id)


@pytest.mark.parametrize(
    ("answers", "watts"),
    [
        ({"EnforcedPowerLimit": 72000, "PowerManagementLimit": 75000}, 72),
        ({"PowerManagementLimit": 75000}, 75),
        ({"EnforcedPowerLimit": 0}, 0),
        ({}, None),
    ],
)
def test_the_power_limit_is_the_one_in_force(answers: dict[str, Any], watts: int | None) -> None:
    """The enforced limit is taken where it is known, else the one that was set."""
    assert gpu_of(**answers).power_limit_w == watts


@pytest.mark.parametrize(("version", "shown"), [([8, 9], 8.9), ([9, 0], 9.0), ([12, 1], 12.1)])
def test_the_compute_capability_is_a_number(version: list[int], shown: float) -> None:
    """A compute capability is a number that a job can compare."""
    assert gpu_of(CudaComputeCapability=version).cuda_compute_capability == shown


@pytest.mark.parametrize(("number", "name"), [(7, "ampere"), (9, "hopper"), (99, None)])
def test_only_known_architectures_have_names(number: int, name: str | None) -> None:
    """An architecture that is newer than we are is left out."""
    assert gpu_of(Architecture=number).architecture == name


@pytest.mark.parametrize(("state", "word"), [(0, "Disabled"), (1, "Enabled")])
def test_states_are_words(state: int, word: str) -> None:
    """States are told in words, as the official plugin does."""
    found = gpu_of(DisplayMode=state, PersistenceMode=state)
    assert (found.display_state, found.persistence_mode) == (word, word)


@pytest.mark.parametrize(("number", "word"), [(0, "DEFAULT"), (3, "EXCLUSIVE_PROCESS"), (9, None)])
def test_compute_modes_are_the_words_of_nvidia_smi(number: int, word: str | None) -> None:
    """A mode that is newer than we are is left out."""
    assert gpu_of(ComputeMode=number).compute_mode == word


def test_a_gpu_without_memory_of_its_own_has_the_systems(tmp_path: Path) -> None:
    """A GPU whose memory is the system's has that memory, and no placeholder of a PCIe link."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemFree: 1 kB\nMemTotal:       125513728 kB\n")
    found = gpu_of(meminfo, MaxPcieLinkGeneration=1, MaxPcieLinkWidth=1)
    assert found.unified_memory
    assert (found.memory_mib, found.pci_bandwidth_mb_s) == (122572, None)


@pytest.mark.parametrize("content", [None, "", "MemTotal: a lot\n", "XMemTotal: 5 kB\n"])
def test_a_system_that_does_not_tell_its_memory(tmp_path: Path, content: str | None) -> None:
    """Where the system's memory cannot be read, the GPU's is left out."""
    meminfo = tmp_path / "meminfo"
    if content is not None:
        meminfo.write_text(content)
    assert gpu_of(meminfo).memory_mib is None


@pytest.mark.parametrize(
    "answers",
    [
        {"VirtualizationMode": 2},
        {"MemoryInfo": NVMLError(scripted_nvml.NO_PERMISSION)},
        {"MemoryInfo": NVMLError(scripted_nvml.UNKNOWN)},
    ],
    ids=str,
)
def test_unknown_memory_is_not_taken_for_the_systems(answers: dict[str, Any]) -> None:
    """Memory that a guest or a failing query does not tell is unknown, not the system's."""
    found = gpu_of(**answers)
    assert not found.unified_memory
    assert found.memory_mib is None


def test_a_bus_id_is_as_in_sysfs() -> None:
    """The bus id is made of NVML's numbers, not of its text in upper case."""
    pci = SimpleNamespace(domain=0, bus=0xC1, device=0, busId="00000000:C1:00.0")
    assert gpu_of(PciInfo=pci).pci_bus_id == "0000:c1:00.0"


@pytest.mark.parametrize("name", ["NVIDIA A100 3g.20gb", "NVIDIA A100 MIG", NO_TEXT])
def test_a_mig_name_without_a_profile_tells_none(name: object) -> None:
    """A MIG device whose name has no profile is published with none."""
    reader = reader_of(Name=name, UUID="MIG-a")
    assert reader.mig_device("handle", L4).mig_profile is None


def test_a_mig_device_tells_its_instances() -> None:
    """A MIG device has the numbers by which the driver names it in events."""
    reader = reader_of(UUID="MIG-a", GpuInstanceId=2, ComputeInstanceId=0)
    found = reader.mig_device("handle", L4)
    assert (found.gpu_instance_id, found.compute_instance_id) == (2, 0)


KNOWN: dict[str, Any] = {
    "Name": "NVIDIA H100 80GB HBM3",
    "MemoryInfo": memory(81559),
    "CudaComputeCapability": [9, 0],
    "Architecture": 9,
    "BAR1MemoryInfo": SimpleNamespace(bar1Total=131072 << 20, bar1Used=0),
}


@pytest.mark.parametrize("query", ["Name", "MemoryInfo", "CudaComputeCapability", "Architecture"])
@pytest.mark.parametrize("code", [scripted_nvml.UNKNOWN, scripted_nvml.NOT_SUPPORTED, 2])
def test_what_cannot_change_is_remembered(query: str, code: int) -> None:
    """One call that errs moves no GPU to another group, and takes no memory from it."""
    before = gpu_of(**KNOWN)
    after = reader_of(**{**KNOWN, query: NVMLError(code)}).gpu("handle", "GPU-a", before=before)
    assert after == before


@pytest.mark.parametrize("query", ["Name", "MemoryInfo"])
def test_what_cannot_be_done_without_is_asked_for_twice(query: str) -> None:
    """A call that errs once at the very first look costs nothing either."""
    answers = iter([NVMLError(scripted_nvml.UNKNOWN), KNOWN[query]])
    assert gpu_of(**{**KNOWN, query: lambda *_: next(answers)}) == gpu_of(**KNOWN)


@pytest.mark.parametrize("total", [0, 2**63, 2**64 - 1])
def test_a_total_that_cannot_be_is_not_known(total: int) -> None:
    """No share is made of memory that cannot be, nor a limit of none."""
    garbage = SimpleNamespace(total=total, used=0)
    found = gpu_of(**{**KNOWN, "MemoryInfo": garbage})
    assert (found.memory_mib, found.unified_memory) == (None, False)


def test_no_memory_and_no_bar1_is_the_systems_memory(tmp_path: Path) -> None:
    """A driver may call the memory of a unified GPU zero instead of unsupported."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 125513728 kB\n")
    found = gpu_of(meminfo, MemoryInfo=SimpleNamespace(total=0, used=0))
    assert (found.memory_mib, found.unified_memory) == (122572, True)


@pytest.mark.parametrize("number", [2**32 - 1, 2**63])
def test_figures_that_cannot_be_are_left_out(number: int) -> None:
    """Whatever comes with success, what no GPU can have is not published."""
    found = gpu_of(
        **KNOWN,
        MaxClockInfo=number,
        EnforcedPowerLimit=number,
        MaxPcieLinkGeneration=4,
        MaxPcieLinkWidth=number,
        DisplayMode=number,
        PersistenceMode=number,
        ComputeMode=number,
    )
    assert found == gpu_of(**KNOWN)


@pytest.mark.parametrize("version", [[-1, -1], [2**32 - 1, 0], [0, 0]])
def test_a_capability_that_cannot_be_is_left_out(version: list[int]) -> None:
    """Nor is it a bug of ours."""
    assert gpu_of(CudaComputeCapability=version).cuda_compute_capability is None
