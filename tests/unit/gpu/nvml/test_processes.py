# SPDX-License-Identifier: MPL-2.0
"""The lists of processes, over a library made of Python functions that fill C buffers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nomad_nvidia_vgpu.gpu.model import GpuProcess
from nomad_nvidia_vgpu.gpu.nvml.processes import Instance, ProcessLists
from unit.gpu.nvml import scripted_nvml
from unit.gpu.nvml.scripted_nvml import NVMLError, ScriptedNvml

COMPUTE = "nvmlDeviceGetComputeRunningProcesses"
GRAPHICS = "nvmlDeviceGetGraphicsRunningProcesses"
MPS = "nvmlDeviceGetMPSComputeRunningProcesses"
MIB = 1 << 20
UNKNOWN_MEMORY = 2**64 - 1
NO_INSTANCE = 2**32 - 1


class List:
    """One function of the library."""

    def __init__(self, *entries: tuple[int, ...], code: int = 0, refusals: int = 0) -> None:
        """Writes entries of pid, bytes and, where the form has them, instances."""
        self.entries = entries
        self.code = code
        self.refusals = refusals
        self.rooms: list[int] = []

    def __call__(self, handle: object, count: Any, infos: Any) -> int:  # noqa: ARG002
        """As NVML's function."""
        room, count = len(infos), count._obj
        self.rooms.append(room)
        if self.code:
            return self.code
        if self.refusals or len(self.entries) > room:
            self.refusals = max(0, self.refusals - 1)
            count.value = max(len(self.entries), room + 1)
            return scripted_nvml.INSUFFICIENT_SIZE
        for number, entry in enumerate(self.entries):
            for (name, _), value in zip(infos[number]._fields_, entry, strict=False):
                setattr(infos[number], name, value)
        count.value = len(self.entries)
        return 0


def lists(**functions: List) -> ProcessLists:
    """Gives the lists of a driver with these functions only."""
    nvml = ScriptedNvml()
    nvml.nvmlLib = SimpleNamespace(**functions)  # type: ignore[attr-defined]
    return ProcessLists(nvml)


def entry(pid: int, mib: int, gi: int = NO_INSTANCE, ci: int = NO_INSTANCE) -> tuple[int, ...]:
    """Gives what the driver writes of one process."""
    return (pid, mib * MIB, gi, ci)


def test_all_lists_are_one_and_sorted() -> None:
    """Compute, graphics and MPS processes come together, by pid, with their kind."""
    found = lists(
        **{
            f"{COMPUTE}_v3": List(entry(30, 300)),
            f"{GRAPHICS}_v3": List(entry(10, 100)),
            f"{MPS}_v3": List(entry(20, 200)),
        }
    ).on(None)
    assert found == (
        GpuProcess(10, 100, "graphics"),
        GpuProcess(20, 200, "mps"),
        GpuProcess(30, 300, "compute"),
    )


def test_a_process_in_two_lists_is_counted_once() -> None:
    """Its memory is the larger of what the lists say, known from either."""
    found = lists(
        **{
            f"{COMPUTE}_v3": List(entry(1, 300), (2, UNKNOWN_MEMORY), entry(3, 5)),
            f"{GRAPHICS}_v3": List(entry(1, 200), entry(2, 7), (3, UNKNOWN_MEMORY)),
        }
    ).on(None)
    assert found == (
        GpuProcess(1, 300, "graphics"),
        GpuProcess(2, 7, "graphics"),
        GpuProcess(3, 5, "graphics"),
    )


def test_memory_that_the_driver_does_not_know_is_none() -> None:
    """The value for "not available" is no number of bytes."""
    assert lists(**{f"{COMPUTE}_v3": List((1, UNKNOWN_MEMORY))}).on(None) == (
        GpuProcess(1, None, "compute"),
    )


@pytest.mark.parametrize("suffix", ["_v3", "_v2", ""])
def test_the_newest_form_there_is_will_do(suffix: str) -> None:
    """Drivers that lack the newest functions are asked through the next older ones."""
    one = entry(7, 70) if suffix else (7, 70 * MIB)
    assert lists(**{COMPUTE + suffix: List(one)}).on(None) == (GpuProcess(7, 70, "compute"),)


def test_a_newer_form_is_preferred() -> None:
    """The oldest form, without instances, is not asked when there is another."""
    old, new = List(), List()
    lists(**{COMPUTE: old, f"{COMPUTE}_v2": new}).on(None)
    assert (len(old.rooms), len(new.rooms)) == (0, 1)


def test_a_list_that_grows_is_asked_for_again() -> None:
    """A list that turns out longer each time comes whole in the end."""
    many = List(*(entry(pid, 1) for pid in range(1, 201)), refusals=2)
    found = lists(**{f"{COMPUTE}_v3": many}).on(None)
    assert found is not None
    assert len(found) == 200
    assert many.rooms == sorted(many.rooms)
    assert len(many.rooms) <= 4


def test_a_list_that_never_stands_still_is_given_up() -> None:
    """A driver that always wants more room is not asked for ever: nothing is known then."""
    restless = List(refusals=10**6)
    assert lists(**{f"{COMPUTE}_v3": restless}).on(None) is None
    assert len(restless.rooms) < 10


@pytest.mark.parametrize("pid", [0, 2**22 + 1, 2**32 - 1])
def test_numbers_that_are_no_pids_are_dropped(pid: int) -> None:
    """A struct of another size than ours shows as impossible pids."""
    assert lists(**{f"{COMPUTE}_v3": List(entry(pid, 1), entry(5, 1))}).on(None) == (
        GpuProcess(5, 1, "compute"),
    )


def test_a_mig_device_has_its_own_instances_processes() -> None:
    """Processes of other instances that a driver lists too are left out; unnamed ones are not."""
    found = lists(
        **{
            f"{COMPUTE}_v3": List(
                entry(1, 1, 3, 0), entry(2, 1, 3, 1), entry(3, 1), entry(4, 1, 9, 0)
            )
        }
    ).on(None, Instance(3, 0))
    assert [process.pid for process in found or ()] == [1, 3]


def test_a_list_that_is_kept_from_us_makes_all_unknown() -> None:
    """Without permission for one list, what the others say is not the whole truth."""
    for secret in (COMPUTE, GRAPHICS, MPS):
        functions = {f"{name}_v3": List(entry(1, 1)) for name in (COMPUTE, GRAPHICS, MPS)}
        functions[f"{secret}_v3"].code = scripted_nvml.NO_PERMISSION
        assert lists(**functions).on(None) is None


def test_what_a_gpu_does_not_have_is_empty() -> None:
    """A GPU without graphics or MPS has none of their processes, and those of CUDA count."""
    functions = {f"{name}_v3": List(code=scripted_nvml.NOT_SUPPORTED) for name in (GRAPHICS, MPS)}
    functions[f"{COMPUTE}_v3"] = List(entry(1, 1))
    assert lists(**functions).on(None) == (GpuProcess(1, 1, "compute"),)


def test_without_a_list_of_compute_processes_nothing_is_known() -> None:
    """A guest that supports no lists, or a driver without the functions, has unknown processes."""
    assert lists().on(None) is None
    assert lists(**{f"{GRAPHICS}_v3": List()}).on(None) is None
    unsupported = List(code=scripted_nvml.NOT_SUPPORTED)
    assert lists(**{f"{COMPUTE}_v3": unsupported, f"{MPS}_v3": List()}).on(None) is None


def test_a_gpu_that_nobody_uses_has_none() -> None:
    """No processes is an answer, other than none known."""
    assert lists(**{f"{COMPUTE}_v3": List()}).on(None) == ()


def test_a_lost_gpu_is_the_callers_concern() -> None:
    """What concerns the GPU as a whole is raised, as by the other queries."""
    with pytest.raises(NVMLError):
        lists(**{f"{COMPUTE}_v3": List(code=scripted_nvml.GPU_IS_LOST)}).on(None)
