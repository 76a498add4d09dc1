# SPDX-License-Identifier: MPL-2.0
"""GPUs through NVML. The only module that imports pynvml, and the only one that knows its errors.

`nvidia-ml-py` costs 20 ms to import, so it is imported when the driver is first touched.
Handles are looked up again at each look: they die when MIG instances or the session do.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from types import ModuleType
from typing import Any

from nomad_nvidia_vgpu.errors import (
    DriverError,
    GpuError,
    HardwareError,
    NoSuchGpuError,
    Problem,
    StaleLibraryError,
)
from nomad_nvidia_vgpu.gpu.model import GpuProcess, GpuSample, Look, Ratio, XidEvent
from nomad_nvidia_vgpu.gpu.nvml import facts
from nomad_nvidia_vgpu.gpu.nvml.events import NvmlEvents
from nomad_nvidia_vgpu.gpu.nvml.library import LoadedLibrary, loaded_library
from nomad_nvidia_vgpu.gpu.nvml.processes import Instance, ProcessLists

_LIBRARY = "libnvidia-ml.so.1"
_CLOSE_PATIENCE_S = 2.0  # events are waited for a second at a time
_INIT_NO_GPUS = 1  # do not fail on a node that has a driver and no GPU


class NvmlSource:
    """The GPUs of this node as NVML sees them; a `GpuSource`."""

    def __init__(self, binding: Callable[[ModuleType], ModuleType] = lambda nvml: nvml) -> None:
        """Touches nothing yet. `binding` may put something between this and pynvml."""
        self._binding = binding
        self._lock = threading.Lock()  # of the session; never held during a query of a GPU
        self._idle = threading.Condition()  # guards the number of calls under way
        self._calls = 0
        self._inits = 0
        self._nvml: ModuleType | None = None
        self._ready = False
        self._why_not_ready = "the NVIDIA driver has not been opened yet"
        self._names: dict[int, str] = {}  # UUIDs as last seen: a lost GPU does not tell its own
        self._system = facts.System()
        self._handles: dict[int, tuple[Any, dict[str, Any]]] = {}
        self._instances: dict[str, Instance] = {}
        self._limits_w: dict[int, int | None] = {}
        self._library: LoadedLibrary | None = None
        self._events: NvmlEvents | None = None
        self._lists: ProcessLists | None = None

    def open(self) -> None:
        """Starts an NVML session unless one is running."""
        with self._lock:
            if self._ready:
                return
            if self._nvml is None:
                import pynvml  # noqa: PLC0415  see the module's docstring

                self._nvml = self._binding(pynvml)
            self._close()
            try:
                self._nvml.nvmlInitWithFlags(_INIT_NO_GPUS)
            except self._nvml.NVMLError as error:
                if self._library is not None and self._library.replaced():
                    raise StaleLibraryError(
                        f"the driver was replaced by another version ({error})",
                        "this process leaves, and Nomad starts one that loads the new library",
                    ) from error
                raise _init_error(self._nvml, error) from error
            self._inits += 1
            self._library = self._library or loaded_library(_LIBRARY)
            self._system = facts.read_system(self._nvml)
            self._events = NvmlEvents(self._nvml)
            self._lists = ProcessLists(self._nvml)
            self._ready = True

    def count(self) -> int:
        """How many GPUs the driver counts, lost ones included."""
        with self._session("the GPUs cannot be counted", closes=True) as nvml:
            try:
                return int(nvml.nvmlDeviceGetCount())
            except nvml.NVMLError_GpuNotFound:
                return 0

    def look(self, index: int) -> Look:
        """One physical GPU, or its MIG devices when it is in MIG mode."""
        with self._session(index) as nvml:
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
            except nvml.NVMLError_InvalidArgument as error:
                text = f"the driver lists no GPU {index} any more"
                raise NoSuchGpuError(text) from error
            uuid = str(nvml.nvmlDeviceGetUUID(handle))
            self._names[index] = uuid
            mig_handles = facts.mig_handles(nvml, handle)
            reader = facts.Reader(nvml, self._system)
            gpu = reader.gpu(handle, uuid)
            if mig_handles is None:
                found = {uuid: (handle, gpu)}
            else:
                devices = [(h, reader.mig_device(h, gpu)) for h in mig_handles]
                found = {device.uuid: (h, device) for h, device in devices}
            signals = facts.signals(nvml, handle)
        self._limits_w[index] = gpu.power_limit_w
        self._handles[index] = (handle, {u: h for u, (h, _) in found.items()})
        for own, (_, part) in found.items():
            self._instances[own] = Instance(part.gpu_instance_id, part.compute_instance_id)
        if self._events is not None:
            self._events.watch(uuid, handle)
        return Look(uuid, tuple(g for _, g in found.values()), signals)

    def sample(self, index: int) -> Mapping[str, GpuSample]:
        """The moving figures of the GPUs that the last look at `index` found."""
        handle, handles = self._handles.get(index, (None, {}))
        try:
            with self._session(index) as nvml:
                return {
                    uuid: _sample(nvml, handle, own, self._limits_w.get(index))
                    for uuid, own in handles.items()
                }
        except HardwareError:
            self._handles.pop(index, None)  # stale, perhaps: the next look fetches new ones
            raise

    def processes(self, index: int) -> Mapping[str, Sequence[GpuProcess]]:
        """The processes on the GPUs that the last look at `index` found."""
        _, handles = self._handles.get(index, (None, {}))
        with self._session(index) as nvml:
            lists = self._lists or ProcessLists(nvml)
            found = {uuid: lists.on(own, self._instances[uuid]) for uuid, own in handles.items()}
        return {uuid: processes for uuid, processes in found.items() if processes is not None}

    def wait_for_events(self, timeout_s: float) -> Sequence[XidEvent]:
        """XIDs of the GPUs looked at so far."""
        with self._session("the driver's events cannot be read"):
            return self._events.wait(timeout_s) if self._events is not None else ()

    def compute_mode(self, uuid: str) -> str | None:
        """The mode of a physical GPU, None where it cannot be told; HardwareError."""
        with self._session(uuid) as nvml:
            return facts.compute_mode(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))

    def set_compute_mode(self, uuid: str, mode: str) -> None:
        """Sets it, until the driver is unloaded; needs root; HardwareError."""
        number = facts.COMPUTE_MODES.index(mode)
        with self._session(f"{uuid} cannot be put into compute mode {mode}") as nvml:
            nvml.nvmlDeviceSetComputeMode(nvml.nvmlDeviceGetHandleByUUID(uuid), number)

    @contextlib.contextmanager
    def _session(self, what: str | int, *, closes: bool = False) -> Iterator[ModuleType]:
        """The binding, for calls of one thread; translates its errors.

        `what` is the index of the GPU concerned, or what failed if it fails. `closes`: whether an
        error that speaks of the session ends it; what one GPU says of it may be wrong.
        """
        with self._call():
            nvml = self._nvml
            if nvml is None or not self._ready:
                raise DriverError(self._why_not_ready)
            try:
                yield nvml
            except nvml.NVMLError as error:
                name = what if isinstance(what, str) else self._name(what)
                raise self._failed(error, name, closes=closes) from error
            except UnicodeDecodeError as error:
                name = what if isinstance(what, str) else self._name(what)
                text = f"{name}: the driver returned invalid UTF-8"
                raise GpuError(text, "reset the GPU") from error

    @contextlib.contextmanager
    def _call(self) -> Iterator[None]:
        """Counts a call under way, from before it looks for a session: none is closed under it."""
        with self._idle:
            self._calls += 1
        try:
            yield
        finally:
            with self._idle:
                self._calls -= 1
                self._idle.notify_all()

    def _close(self) -> None:
        """Ends a session that has failed, so that the kernel module can be unloaded.

        Not while a call is under way, because shutting down under it is undefined; a call that hangs
        must not keep the others from a new session either, so this waits for a moment only.
        """
        assert self._nvml is not None
        with self._idle:
            if not self._idle.wait_for(lambda: self._calls == 0, timeout=_CLOSE_PATIENCE_S):
                return
        while self._inits:
            self._inits -= 1
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def _name(self, index: int) -> str:
        return self._names.get(index, f"GPU {index}")

    def _failed(self, error: Any, what: str, *, closes: bool) -> DriverError | GpuError:
        nvml = self._nvml
        assert nvml is not None
        if error.value in (
            nvml.NVML_ERROR_UNINITIALIZED,
            nvml.NVML_ERROR_DRIVER_NOT_LOADED,
            nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        ):
            if closes:
                self._why_not_ready = _problem(nvml, error)
                self._ready = False  # the next open() starts a new session
            return DriverError(_problem(nvml, error))
        grave = error.value in (
            nvml.NVML_ERROR_GPU_IS_LOST,
            nvml.NVML_ERROR_RESET_REQUIRED,
            nvml.NVML_ERROR_IRQ_ISSUE,
        )
        return GpuError(_problem(nvml, error).about(what), grave=grave)


def _sample(nvml: ModuleType, physical: Any, own: Any, limit_w: int | None) -> GpuSample:
    """`physical` knows power and temperature, `own` (a MIG device, or the same) the memory."""

    def value(query: Callable[..., Any], *args: object) -> Any:
        return facts.optional(nvml, query, *args)

    busy = value(nvml.nvmlDeviceGetUtilizationRates, own)
    encoder = value(nvml.nvmlDeviceGetEncoderUtilization, own)
    decoder = value(nvml.nvmlDeviceGetDecoderUtilization, own)
    bar1 = value(nvml.nvmlDeviceGetBAR1MemoryInfo, own)
    power_mw = value(nvml.nvmlDeviceGetPowerUsage, physical)
    errors = [
        value(
            nvml.nvmlDeviceGetMemoryErrorCounter,
            physical,
            nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            nvml.NVML_VOLATILE_ECC,
            location,
        )
        for location in (
            nvml.NVML_MEMORY_LOCATION_L1_CACHE,
            nvml.NVML_MEMORY_LOCATION_L2_CACHE,
            nvml.NVML_MEMORY_LOCATION_DEVICE_MEMORY,
        )
    ]
    return GpuSample(
        taken_at=datetime.now(tz=timezone.utc),
        power_w=None if power_mw is None else Ratio(power_mw // 1000, limit_w),
        energy_mj=value(nvml.nvmlDeviceGetTotalEnergyConsumption, physical),
        gpu_utilization_percent=busy and busy.gpu,
        memory_utilization_percent=busy and busy.memory,
        encoder_utilization_percent=encoder and encoder[0],
        decoder_utilization_percent=decoder and decoder[0],
        temperature_c=value(nvml.nvmlDeviceGetTemperature, physical, nvml.NVML_TEMPERATURE_GPU),
        memory_mib=facts.memory_in_use(nvml, own),
        bar1_mib=bar1 and Ratio(bar1.bar1Used >> 20, bar1.bar1Total >> 20),
        ecc_l1_errors=errors[0],
        ecc_l2_errors=errors[1],
        ecc_memory_errors=errors[2],
    )


def _init_error(nvml: ModuleType, error: Any) -> DriverError:
    if error.value != nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return DriverError(_problem(nvml, error))
    # pynvml reports every failure to load as "not found"; the loader knows the reason.
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError as reason:
        return DriverError(
            f"{_LIBRARY} cannot be loaded ({reason})",
            (
                'install the NVIDIA driver on this client, or try without one (simulate = ["l4"] in'
                " the config, --simulate l4 for a command)"
            ),
        )
    return DriverError(f"{_LIBRARY} appeared a moment ago", "trying again")


def _problem(nvml: ModuleType, error: Any) -> Problem:
    """What NVML says, and what an operator can do about it."""
    remedies = {
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "load the kernel module (modprobe nvidia)",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "reload the kernel module or reboot, because the driver was upgraded in place; then"
        " restart the Nomad agent",
        nvml.NVML_ERROR_FUNCTION_NOT_FOUND: f"take the directory of {_LIBRARY} out of LD_LIBRARY_PATH,"
        " because it is not a driver's (a CUDA stub?)",
        nvml.NVML_ERROR_NO_PERMISSION: "run the Nomad agent as root, with access to /dev/nvidia*",
        nvml.NVML_ERROR_OPERATING_SYSTEM: "give the Nomad agent's cgroup access to /dev/nvidia*",
        nvml.NVML_ERROR_GPU_IS_LOST: "drain the node and reboot it",
        nvml.NVML_ERROR_RESET_REQUIRED: "drain the node and reset the GPU",
        nvml.NVML_ERROR_IRQ_ISSUE: "drain the node and reboot it",
    }
    remedy = remedies.get(error.value, "see dmesg and nvidia-smi")
    return Problem(f"NVML says {str(error)!r} ({error.value})", remedy)
