# SPDX-License-Identifier: MPL-2.0
"""A session with NVML: which failure is whose; all else is tested over our fake library."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nomad_nvidia_vgpu.errors import DriverError, GpuError, NoSuchGpuError, StaleLibraryError
from nomad_nvidia_vgpu.gpu.model import GpuProcess, Ratio, Signals
from nomad_nvidia_vgpu.gpu.nvml.library import LoadedLibrary
from nomad_nvidia_vgpu.gpu.nvml.source import NvmlSource
from unit.gpu.nvml import scripted_nvml
from unit.gpu.nvml.scripted_nvml import (
    NO_TEXT,
    GpuNotFound,
    InvalidArgument,
    NVMLError,
    ScriptedNvml,
    memory,
)

HANDLE = ctypes.pointer(ctypes.c_int())
WORKING = {
    "InitWithFlags": None,
    "Count": 1,
    "HandleByIndex": HANDLE,
    "UUID": "GPU-a",
    "Name": "NVIDIA L4",
    "MemoryInfo": memory(23034, 100),
}


def session(**answers: Any) -> tuple[NvmlSource, ScriptedNvml]:
    """Gives a source over a working GPU except for these answers, and what answers it."""
    nvml = ScriptedNvml(**{**WORKING, **answers})
    source = NvmlSource()
    source._nvml = nvml
    return source, nvml


def seen(**answers: Any) -> tuple[NvmlSource, ScriptedNvml]:
    """Gives the same with a session in which the GPU was found and looked at once."""
    source, nvml = session()
    source.open()
    source.look(source.find(0))
    nvml.set(**answers)
    return source, nvml


def test_a_source_that_was_not_opened_is_the_drivers_problem() -> None:
    """Asked before it was opened, a source blames no GPU."""
    source, _ = session()
    for ask in (source.count, lambda: source.find(0), lambda: source.sample("GPU-a")):
        with pytest.raises(DriverError, match=r"has not been opened"):
            ask()


def test_a_session_is_started_once() -> None:
    """Opening again while the session runs does not start another."""
    source, nvml = session()
    source.open()
    source.open()
    assert nvml.calls["InitWithFlags"] == 1


@pytest.mark.parametrize("code", [scripted_nvml.UNINITIALIZED, scripted_nvml.DRIVER_NOT_LOADED])
def test_a_session_that_ended_is_started_again(code: int) -> None:
    """A session that a reloaded driver ended is the driver's problem until it is opened again."""
    source, nvml = session()
    source.open()
    nvml.set(Count=NVMLError(code))
    with pytest.raises(DriverError):
        source.count()
    nvml.set(Count=1)
    source.open()
    assert nvml.calls["InitWithFlags"] == 2
    assert source.look(source.find(0)).physical_uuid == "GPU-a"


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (scripted_nvml.DRIVER_NOT_LOADED, "modprobe nvidia"),
        (18, "reload the kernel module or reboot"),
        (scripted_nvml.FUNCTION_NOT_FOUND, "LD_LIBRARY_PATH"),
        (scripted_nvml.NO_PERMISSION, "as root"),
        (scripted_nvml.UNKNOWN, "see dmesg"),
    ],
)
def test_a_driver_that_cannot_be_opened_says_what_to_do(code: int, remedy: str) -> None:
    """Each reason why the driver cannot be opened comes with its remedy."""
    source, _ = session(InitWithFlags=NVMLError(code))
    with pytest.raises(DriverError, match=remedy):
        source.open()


def test_a_gpu_that_is_lost_says_what_to_do() -> None:
    """A lost GPU is named, with the remedy, and is no problem of the driver."""
    source, _ = seen(Name=NVMLError(scripted_nvml.GPU_IS_LOST))
    with pytest.raises(GpuError, match=r"^GPU-a: .*drain the node and reboot it"):
        source.look("GPU-a")


def test_who_meets_a_closed_session_is_told_why_it_closed() -> None:
    """All that ask a closed session are told the one reason that closed it."""
    source, nvml = session()
    source.open()
    nvml.set(Count=NVMLError(scripted_nvml.DRIVER_NOT_LOADED))
    with pytest.raises(DriverError) as first:
        source.count()
    with pytest.raises(DriverError) as second:
        source.look("GPU-a")
    assert str(first.value) == str(second.value)


def test_a_lost_gpu_keeps_its_name() -> None:
    """A GPU that is lost says so under its own UUID, whatever its index is by now."""
    source, _ = seen(
        Index=0,
        HandleByIndex=NVMLError(scripted_nvml.GPU_IS_LOST),
    )
    with pytest.raises(GpuError, match=r"^GPU-a: "):
        source.look("GPU-a")


def test_a_failure_at_an_index_that_moved_is_anothers() -> None:
    """What the driver says at an index is held against nobody who has left it meanwhile."""
    places = iter([0, 3])
    source, _ = seen(
        Index=lambda _: next(places), HandleByIndex=NVMLError(scripted_nvml.GPU_IS_LOST)
    )
    assert source.look("GPU-a").physical_uuid == "GPU-a"


def test_who_fails_before_it_has_a_name_is_nobody() -> None:
    """A failure to say who is at an index names the index alone."""
    source, _ = seen(HandleByIndex=NVMLError(scripted_nvml.GPU_IS_LOST))
    with pytest.raises(GpuError, match=r"^GPU 0: "):
        source.find(0)


def test_a_gpu_that_the_driver_does_not_list_is_gone() -> None:
    """A lost handle to a GPU that the driver knows no more is no case for a reboot."""
    source, _ = seen(
        UUID=NVMLError(scripted_nvml.GPU_IS_LOST), HandleByUUID=NVMLError(scripted_nvml.NOT_FOUND)
    )
    with pytest.raises(GpuError, match=r"^GPU-a: the driver does not list this GPU any more"):
        source.look("GPU-a")


def test_two_gpus_with_one_uuid_are_the_first() -> None:
    """Of two GPUs with one UUID the one with the lower index is used, whichever is found first."""
    handles = {place: ctypes.pointer(ctypes.c_int(place)) for place in (1, 4)}

    def index_of(handle: Any) -> int:
        return int(handle.contents.value)

    for order in ((1, 4), (4, 1)):
        source, nvml = session(HandleByIndex=handles.get, Index=index_of, Name=index_of)
        nvml.set(Name=lambda handle: f"card {index_of(handle)}")
        source.open()
        refused = []
        for place in order:
            try:
                source.find(place)
            except GpuError as error:
                refused.append(str(error))
        assert source.look("GPU-a").gpus[0].model == "card 1"
        if order == (1, 4):
            (why,) = refused
            assert why.startswith("GPU 4 has the UUID of GPU 1 (GPU-a), so it cannot be told from")


def test_a_uuid_that_is_no_text_is_that_gpus_fault() -> None:
    """A UUID in bytes that are not UTF-8 is a failure of its GPU, named by its index."""
    source, _ = session(UUID=NO_TEXT)
    source.open()
    with pytest.raises(GpuError, match=r"^GPU 0: the driver returned invalid UTF-8"):
        source.find(0)


@pytest.mark.parametrize("uuid", ["", "GPU a", "GPU-|", "GPU-" + 200 * "0"])
def test_a_uuid_that_is_none_is_that_gpus_fault(uuid: str) -> None:
    """An identity that Nomad could not carry is a failure of its GPU, with what to do."""
    source, _ = session(UUID=uuid)
    source.open()
    with pytest.raises(GpuError, match=r"as a UUID: reset the GPU"):
        source.find(0)


def test_no_gpu_is_no_failure() -> None:
    """A driver that finds no GPU counts none."""
    source, _ = session(Count=GpuNotFound(28))
    source.open()
    assert source.count() == 0


def test_a_sample_has_what_the_gpu_gives() -> None:
    """What a GPU does not measure is missing from its sample, and the rest is there."""
    source, _ = session(
        UtilizationRates=SimpleNamespace(gpu=0, memory=7),
        EncoderUtilization=[5, 1000],
        PowerUsage=30500,
        EnforcedPowerLimit=72000,
        BAR1MemoryInfo=SimpleNamespace(bar1Used=2 << 20, bar1Total=256 << 20),
    )
    source.open()
    source.look(source.find(0))
    sample = source.sample("GPU-a")["GPU-a"]
    assert (sample.gpu_utilization_percent, sample.memory_utilization_percent) == (0, 7)
    assert (sample.encoder_utilization_percent, sample.decoder_utilization_percent) == (5, None)
    assert sample.power_w == Ratio(30, 72)
    assert sample.memory_mib == Ratio(100, 23034)
    assert sample.bar1_mib == Ratio(2, 256)
    assert sample.temperature_c is None


def test_a_gpu_that_was_not_looked_at_has_no_sample() -> None:
    """Before the first look there is nothing to sample, and that is no failure."""
    source, _ = session()
    source.open()
    assert source.sample("GPU-a") == {}


def test_a_value_that_is_called_invalid_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """A getter that answers InvalidArgument costs its value, and one line that names the call."""
    caplog.set_level("INFO")
    source, _ = seen(UtilizationRates=NVMLError(scripted_nvml.INVALID_ARGUMENT), PowerUsage=30500)
    for _ in range(3):
        sample = source.sample("GPU-a")["GPU-a"]
        assert sample.gpu_utilization_percent is None
        assert sample.power_w == Ratio(30)
    assert caplog.messages == [
        "GPU-a: nvmlDeviceGetUtilizationRates answers 'error 2' (2): that value is left out"
    ]


def test_a_stale_handle_has_no_sample() -> None:
    """Whether a handle is stale is asked of a getter that every GPU has."""
    stale = NVMLError(scripted_nvml.INVALID_ARGUMENT)
    source, _ = seen(UtilizationRates=stale, UUID=stale)
    with pytest.raises(GpuError, match=r"^GPU-a: "):
        source.sample("GPU-a")


def test_a_gpu_with_a_stale_handle_has_to_be_found() -> None:
    """A handle that means nothing any more accuses nobody, and the next one is good."""
    source, nvml = seen(UUID=InvalidArgument(scripted_nvml.INVALID_ARGUMENT))
    with pytest.raises(NoSuchGpuError):
        source.look("GPU-a")
    nvml.set(UUID="GPU-a")
    with pytest.raises(NoSuchGpuError):
        source.look("GPU-a")
    source.find(0)
    assert source.look("GPU-a").physical_uuid == "GPU-a"


def test_an_index_beyond_the_last_gpu_accuses_nobody() -> None:
    """An index that the driver lists no more is an error of no GPU and not of the driver."""
    source, _ = session(HandleByIndex=InvalidArgument(scripted_nvml.INVALID_ARGUMENT))
    source.open()
    with pytest.raises(NoSuchGpuError):
        source.find(0)


@pytest.mark.parametrize(
    ("code", "grave"),
    [
        (scripted_nvml.GPU_IS_LOST, True),
        (scripted_nvml.RESET_REQUIRED, True),
        (scripted_nvml.IRQ_ISSUE, True),
        (scripted_nvml.UNKNOWN, False),
    ],
)
def test_only_what_needs_a_reset_is_grave(code: int, grave: object) -> None:
    """An error after which nothing works before a reset or a reboot is grave, and no other."""
    source, nvml = session()
    source.open()
    nvml.set(HandleByIndex=NVMLError(code))
    with pytest.raises(GpuError) as raised:
        source.find(0)
    assert raised.value.grave is grave


def test_a_replaced_library_needs_a_new_process(tmp_path: Path) -> None:
    """A session that cannot be opened because the library was replaced says so."""
    source, nvml = session()
    source.open()
    new = tmp_path / "libnvidia-ml.so.1"
    new.write_text("new")
    source._library = LoadedLibrary(new, 0, 0)
    nvml.set(Count=NVMLError(18))
    with pytest.raises(DriverError):
        source.count()
    nvml.set(InitWithFlags=NVMLError(18))
    with pytest.raises(StaleLibraryError, match=r"the driver was replaced"):
        source.open()


def test_a_session_that_fails_is_shut_down_before_the_next() -> None:
    """As many sessions are ended as were begun, so that the kernel module can be unloaded."""
    source, nvml = session()
    source.open()
    nvml.set(Count=NVMLError(scripted_nvml.DRIVER_NOT_LOADED))
    with pytest.raises(DriverError):
        source.count()
    nvml.set(Count=1, InitWithFlags=NVMLError(scripted_nvml.DRIVER_NOT_LOADED))
    for _ in range(3):
        with pytest.raises(DriverError):
            source.open()
    assert nvml.calls["Shutdown"] == 1


def test_the_lasting_signals_come_with_a_look() -> None:
    """A look brings the recovery action and whether a row of the memory could not be replaced."""
    field = SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=2))
    source, _ = session(FieldValues=[field], RemappedRows=[0, 1, 0, 1])
    source.open()
    assert source.look(source.find(0)).signals == Signals(recovery_action=2, row_remap_failed=True)


def test_a_driver_that_does_not_tell_has_no_signals() -> None:
    """A driver too old for the signals, or that refuses one field, leaves them unknown."""
    source, _ = session(FieldValues=[SimpleNamespace(nvmlReturn=3)])
    source.open()
    assert source.look(source.find(0)).signals == Signals()


def test_a_compute_mode_is_set_by_uuid() -> None:
    """The GPU is named by its UUID, for indexes move; the mode goes out as NVML's number."""
    asked: list[object] = []
    source, nvml = session(
        HandleByUUID=lambda uuid: ("handle", uuid),
        ComputeMode=3,
    )
    nvml.set(DeviceSetComputeMode=lambda *args: asked.append(args))
    source.open()
    assert source.compute_mode("GPU-a") == "EXCLUSIVE_PROCESS"
    source.set_compute_mode("GPU-a", "EXCLUSIVE_PROCESS")
    assert asked == [(("handle", "GPU-a"), 3)]


def test_a_compute_mode_that_may_not_be_set_says_what_to_do() -> None:
    """Only root may."""
    source, _ = session(
        HandleByUUID=HANDLE, DeviceSetComputeMode=NVMLError(scripted_nvml.NO_PERMISSION)
    )
    source.open()
    with pytest.raises(
        GpuError, match=r"GPU-a cannot be put into compute mode DEFAULT: .* as root"
    ):
        source.set_compute_mode("GPU-a", "DEFAULT")


def test_processes_are_those_of_the_gpus_last_seen() -> None:
    """Each GPU that tells its processes is there; one that was not looked at yet is not."""

    def listed(_handle: object, count: Any, infos: Any) -> int:
        struct.pack_into("<I4xQII", infos, 0, 17, 5 << 20, 2**32 - 1, 2**32 - 1)
        count._obj.value = 1
        return 0

    source, nvml = session()
    nvml.nvmlLib = SimpleNamespace(nvmlDeviceGetComputeRunningProcesses_v3=listed)  # type: ignore[attr-defined]
    source.open()
    assert source.processes("GPU-a") == {}
    source.look(source.find(0))
    assert source.processes("GPU-a") == {"GPU-a": (GpuProcess(17, 5, "compute"),)}


def test_processes_that_are_not_told_are_left_out() -> None:
    """A driver without lists leaves the GPU out."""
    source, _ = session()
    source.open()
    source.look(source.find(0))
    assert source.processes("GPU-a") == {}


def test_a_lost_gpu_tells_no_processes() -> None:
    """Asking a lost GPU for its processes is its own failure."""
    source, nvml = session()
    nvml.nvmlLib = SimpleNamespace(  # type: ignore[attr-defined]
        nvmlDeviceGetComputeRunningProcesses_v3=lambda *_: scripted_nvml.GPU_IS_LOST
    )
    source.open()
    source.look(source.find(0))
    with pytest.raises(GpuError):
        source.processes("GPU-a")
