# SPDX-License-Identifier: MPL-2.0
"""The lists of processes, over a library made of Python functions that fill C buffers."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest

from nomad_nvidia_vgpu.gpu.model import GpuProcess
from nomad_nvidia_vgpu.gpu.nvml.asking import Asker
from nomad_nvidia_vgpu.gpu.nvml.processes import Instance, ProcessLists
from unit.gpu.nvml import scripted_nvml
from unit.gpu.nvml.scripted_nvml import NVMLError, ScriptedNvml

COMPUTE = "nvmlDeviceGetComputeRunningProcesses"
GRAPHICS = "nvmlDeviceGetGraphicsRunningProcesses"
MPS = "nvmlDeviceGetMPSComputeRunningProcesses"
MIB = 1 << 20
UNKNOWN_MEMORY = 2**64 - 1
NO_INSTANCE = 2**32 - 1


ASK = Asker(ScriptedNvml(), "GPU-a")


class List:
    """One function of the library."""

    def __init__(
        self,
        *entries: tuple[int, ...],
        code: int = 0,
        refusals: int = 0,
        record: int = 24,
        wants: int | None = None,
    ) -> None:
        """Writes entries of pid, bytes and instances, in records of so many bytes.

        `wants` is the room that it asks for when it refuses.
        """
        self.record = record
        self.wants = wants
        self.entries = entries
        self.code = code
        self.refusals = refusals
        self.rooms: list[int] = []

    def __call__(self, handle: object, count: Any, infos: Any) -> int:  # noqa: ARG002
        """As NVML's function."""
        count = count._obj
        room = count.value
        self.rooms.append(room)
        if self.code:
            return self.code
        if self.refusals or len(self.entries) > room:
            self.refusals = max(0, self.refusals - 1)
            count.value = self.wants or max(len(self.entries), room + 1)
            return scripted_nvml.INSUFFICIENT_SIZE
        for number, entry in enumerate(self.entries):
            whole = struct.pack("<I4xQIIQ", *(*entry, NO_INSTANCE, NO_INSTANCE)[:4], 0)
            start = number * self.record
            infos[start : start + self.record] = whole[: self.record].ljust(self.record, b"\0")
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
    ).on(ASK, None)
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
    ).on(ASK, None)
    assert found == (
        GpuProcess(1, 300, "graphics"),
        GpuProcess(2, 7, "graphics"),
        GpuProcess(3, 5, "graphics"),
    )


def test_memory_that_the_driver_does_not_know_is_none() -> None:
    """The value for "not available" is no number of bytes."""
    assert lists(**{f"{COMPUTE}_v3": List((1, UNKNOWN_MEMORY))}).on(ASK, None) == (
        GpuProcess(1, None, "compute"),
    )


@pytest.mark.parametrize("suffix", ["_v3", "_v2", ""])
def test_the_newest_form_there_is_will_do(suffix: str) -> None:
    """Drivers that lack the newest functions are asked through the next older ones."""
    form = List(entry(7, 70), record=24 if suffix else 16)
    assert lists(**{COMPUTE + suffix: form}).on(ASK, None) == (GpuProcess(7, 70, "compute"),)


def test_a_newer_form_is_preferred() -> None:
    """The oldest form, without instances, is not asked when there is another."""
    old, new = List(), List()
    lists(**{COMPUTE: old, f"{COMPUTE}_v2": new}).on(ASK, None)
    assert (len(old.rooms), len(new.rooms)) == (0, 1)


def test_a_list_that_grows_is_asked_for_again() -> None:
    """A list that turns out longer each time comes whole in the end."""
    many = List(*(entry(pid, 1) for pid in range(1, 201)), refusals=2)
    found = lists(**{f"{COMPUTE}_v3": many}).on(ASK, None)
    assert found is not None
    assert len(found) == 200
    assert many.rooms == sorted(many.rooms)
    assert len(many.rooms) <= 4


def test_a_list_that_never_stands_still_is_given_up() -> None:
    """A driver that always wants more room is not asked for ever: nothing is known then."""
    restless = List(refusals=10**6)
    assert lists(**{f"{COMPUTE}_v3": restless}).on(ASK, None) is None
    assert len(restless.rooms) < 10


@pytest.mark.parametrize("pid", [0, 2**22 + 1, 2**32 - 1])
def test_numbers_that_are_no_pids_are_dropped(pid: int) -> None:
    """What nobody can be is left out, whoever else is listed."""
    assert lists(**{f"{COMPUTE}_v3": List(entry(pid, 1), entry(5, 1))}).on(ASK, None) == (
        GpuProcess(5, 1, "compute"),
    )


@pytest.mark.parametrize("record", [16, 24, 32, 40, 64])
@pytest.mark.parametrize("count", [1, 2, 4, 62, 64, 200])
def test_records_of_any_size_are_read(record: int, count: int) -> None:
    """However long the records that a driver writes, each process is seen, with its memory."""
    writes = List(*(entry(pid, pid) for pid in range(1, count + 1)), record=record)
    found = lists(**{f"{COMPUTE}_v3": writes}).on(ASK, None)
    assert found == tuple(GpuProcess(pid, pid, "compute") for pid in range(1, count + 1))


def test_records_that_make_no_sense_are_read_in_an_older_form() -> None:
    """A form that gives impossible pids alone is not believed while there is another."""
    odd, old = List(entry(2**31, 1)), List(entry(7, 70))
    found = lists(**{f"{COMPUTE}_v3": odd, f"{COMPUTE}_v2": old}).on(ASK, None)
    assert found == (GpuProcess(7, 70, "compute"),)


def test_room_for_a_number_that_cannot_be_is_not_made() -> None:
    """A driver that wants room for four thousand million processes is given up."""
    greedy = List(refusals=9, wants=2**32 - 1)
    assert lists(**{f"{COMPUTE}_v3": greedy}).on(ASK, None) is None
    assert len(greedy.rooms) == 1


def test_memory_that_cannot_be_is_not_known() -> None:
    """No task uses more than any GPU can have."""
    assert lists(**{f"{COMPUTE}_v3": List((1, 2**63))}).on(ASK, None) == (
        GpuProcess(1, None, "compute"),
    )


def test_a_mig_device_has_its_own_instances_processes() -> None:
    """Processes of other instances that a driver lists too are left out; unnamed ones are not."""
    found = lists(
        **{
            f"{COMPUTE}_v3": List(
                entry(1, 1, 3, 0), entry(2, 1, 3, 1), entry(3, 1), entry(4, 1, 9, 0)
            )
        }
    ).on(ASK, None, Instance(3, 0))
    assert [process.pid for process in found or ()] == [1, 3]


def test_a_list_that_is_kept_from_us_makes_all_unknown() -> None:
    """Without permission for one list, what the others say is not the whole truth."""
    for secret in (COMPUTE, GRAPHICS, MPS):
        functions = {f"{name}_v3": List(entry(1, 1)) for name in (COMPUTE, GRAPHICS, MPS)}
        functions[f"{secret}_v3"].code = scripted_nvml.NO_PERMISSION
        assert lists(**functions).on(ASK, None) is None


def test_what_a_gpu_does_not_have_is_empty() -> None:
    """A GPU without graphics or MPS has none of their processes, and those of CUDA count."""
    functions = {f"{name}_v3": List(code=scripted_nvml.NOT_SUPPORTED) for name in (GRAPHICS, MPS)}
    functions[f"{COMPUTE}_v3"] = List(entry(1, 1))
    assert lists(**functions).on(ASK, None) == (GpuProcess(1, 1, "compute"),)


def test_without_a_list_of_compute_processes_nothing_is_known() -> None:
    """A guest that supports no lists, or a driver without the functions, has unknown processes."""
    assert lists().on(ASK, None) is None
    assert lists(**{f"{GRAPHICS}_v3": List()}).on(ASK, None) is None
    unsupported = List(code=scripted_nvml.NOT_SUPPORTED)
    assert lists(**{f"{COMPUTE}_v3": unsupported, f"{MPS}_v3": List()}).on(ASK, None) is None


def test_a_gpu_that_nobody_uses_has_none() -> None:
    """No processes is an answer, other than none known."""
    assert lists(**{f"{COMPUTE}_v3": List()}).on(ASK, None) == ()


def test_a_lost_gpu_is_the_callers_concern() -> None:
    """What concerns the GPU as a whole is raised, as by the other queries."""
    with pytest.raises(NVMLError):
        lists(**{f"{COMPUTE}_v3": List(code=scripted_nvml.GPU_IS_LOST)}).on(ASK, None)
