# SPDX-License-Identifier: MPL-2.0
"""GPUs through NVML. The only module that imports pynvml, and the only one that knows its errors.

`nvidia-ml-py` costs 20 ms to import, so it is imported when the driver is first touched
(docs/internals/nvml.md#the-binding).

A GPU is known by its UUID and asked by its handle, never by an index, which may be another's by
now. So whatever fails or hangs while a GPU is asked is that GPU's. A handle dies with the session
(and a MIG device's with the device); whether one is stale is asked of a getter that none lacks.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from nomad_nvidia_vgpu.errors import (
    DriverError,
    GpuError,
    NoSuchGpuError,
    Problem,
    StaleLibraryError,
)
from nomad_nvidia_vgpu.gpu.health import GONE
from nomad_nvidia_vgpu.gpu.model import Gpu, GpuProcess, GpuSample, Look, XidEvent
from nomad_nvidia_vgpu.gpu.nvml import facts
from nomad_nvidia_vgpu.gpu.nvml.asking import Asker, plausible
from nomad_nvidia_vgpu.gpu.nvml.events import NvmlEvents, address_of
from nomad_nvidia_vgpu.gpu.nvml.library import LoadedLibrary, loaded_library
from nomad_nvidia_vgpu.gpu.nvml.processes import Instance, ProcessLists
from nomad_nvidia_vgpu.gpu.nvml.sampling import Sampler
from nomad_nvidia_vgpu.outbox import Outbox

_LIBRARY = "libnvidia-ml.so.1"
_CLOSE_PATIENCE_S = 2.0  # events are waited for a second at a time
_INIT_NO_GPUS = 1  # do not fail on a node that has a driver and no GPU


class _Part(NamedTuple):
    """A GPU of ours, as the last look found it: the physical one, or a MIG device."""

    handle: Any
    gpu: Gpu


class _Known(NamedTuple):
    """What the last look at a physical GPU found."""

    gpu: Gpu
    whole: _Part | None
    """None: it is in MIG mode."""
    slots: Mapping[int, _Part]
    """Its MIG devices."""

    @property
    def parts(self) -> tuple[_Part, ...]:
        return (self.whole,) if self.whole is not None else tuple(self.slots.values())


class NvmlSource:
    """The GPUs of this node as NVML sees them; a `GpuSource`."""

    def __init__(self, binding: Callable[[ModuleType], ModuleType] = lambda nvml: nvml) -> None:
        """Touches nothing yet. `binding` may put something between this and pynvml."""
        self._binding = binding
        self._lock = threading.Lock()  # of the session; never held during a query of a GPU
        self._idle = threading.Condition()  # guards the number of calls under way
        self._outbox = Outbox()
        self._calls = 0
        self._inits = 0
        self._nvml: ModuleType | None = None
        self._ready = False
        self._why_not_ready = "the NVIDIA driver has not been opened yet"
        self._system = facts.System()
        self._told: set[tuple[str, str, int]] = set()
        self._handles: dict[str, Any] = {}
        """Of physical GPUs in this session, by UUID; guarded by `_naming`."""
        self._naming = threading.Lock()  # never held during a query
        self._known: dict[str, _Known] = {}
        """By UUID of the physical GPU; it outlives the session, for it holds what cannot change."""
        self._library: LoadedLibrary | None = None
        self._events: NvmlEvents | None = None
        self._lists: ProcessLists | None = None
        self._sampler: Sampler | None = None

    def open(self) -> None:
        """Starts an NVML session unless one is running."""
        with self._lock:
            self._open()
        self._outbox.deliver()

    def count(self) -> int:
        """How many GPUs the driver counts, lost ones included."""
        with self._session("the GPUs cannot be counted", closes=True) as nvml:
            try:
                return int(nvml.nvmlDeviceGetCount())
            except nvml.NVMLError_GpuNotFound:
                return 0

    def find(self, index: int) -> str:
        """The UUID of the physical GPU that the driver lists here; HardwareError of nobody we know.

        NoSuchGpuError when it lists fewer.
        """
        with self._session(f"GPU {index}") as nvml:
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
            except nvml.NVMLError_InvalidArgument as error:
                text = f"the driver lists no GPU {index} any more"
                raise NoSuchGpuError(text) from error
            uuid = facts.checked_uuid(str(nvml.nvmlDeviceGetUUID(handle)))
            namesake = self._index_of_another(nvml, uuid, handle)
        if namesake is not None and namesake < index:
            raise GpuError(
                f"GPU {index} has the UUID of GPU {namesake} ({uuid}), so it cannot be told from it",
                "see nvidia-smi -L, update the driver or its firmware",
            )
        with self._naming:
            self._handles[uuid] = handle
        if self._events is not None:
            self._events.watch(uuid, handle)
        return uuid

    def look(self, uuid: str) -> Look:
        """One physical GPU, or its MIG devices when it is in MIG mode."""
        with self._session(uuid) as nvml:
            handle = self._handle(nvml, uuid)
            ask = Asker(nvml, uuid, self._told)
            index = self._see_listed(ask, handle)
            before = self._known.get(uuid)
            slots_before = {} if before is None else before.slots
            slots = facts.mig_slots(
                ask,
                handle,
                None
                if before is None or before.whole is not None
                else {slot: part.handle for slot, part in slots_before.items()},
                known=before is not None,
            )
            reader = facts.Reader(ask, self._system)
            gpu = reader.gpu(handle, uuid, index, before and before.gpu)
            found = {
                slot: _Part(
                    own,
                    reader.mig_device(
                        own, gpu, slots_before[slot].gpu if slot in slots_before else None
                    ),
                )
                for slot, own in (slots or {}).items()
            }
            known = _Known(gpu, _Part(handle, gpu) if slots is None else None, found)
            signals = facts.signals(ask, handle)
        self._known[uuid] = known
        if self._events is not None:
            self._events.watch(uuid, handle)
        return Look(uuid, tuple(part.gpu for part in known.parts), signals)

    def sample(self, uuid: str) -> Mapping[str, GpuSample]:
        """The moving figures of the GPUs that the last look at this one found."""
        with self._session(uuid) as nvml:
            handle, known = self._handles.get(uuid), self._known.get(uuid)
            if handle is None or known is None:
                return {}
            ask = Asker(nvml, uuid, self._told)
            sampler = self._sampler or Sampler(nvml)
            found = {
                part.gpu.uuid: sampler.take(ask, handle, part.handle, known.gpu.power_limit_w)
                for part in known.parts
            }
            if ask.found_invalid:
                # No such values, or the handles are stale: these getters answer to good ones.
                for part in known.parts:
                    nvml.nvmlDeviceGetUUID(part.handle)
        return found

    def processes(self, uuid: str) -> Mapping[str, Sequence[GpuProcess]]:
        """The processes on the GPUs that the last look at this one found."""
        with self._session(uuid) as nvml:
            known = self._known.get(uuid)
            if uuid not in self._handles or known is None:
                return {}
            lists = self._lists or ProcessLists(nvml)
            ask = Asker(nvml, uuid, self._told)
            found = {
                gpu.uuid: lists.on(
                    ask, handle, Instance(gpu.gpu_instance_id, gpu.compute_instance_id)
                )
                for handle, gpu in known.parts
            }
        return {own: processes for own, processes in found.items() if processes is not None}

    def wait_for_events(self, timeout_s: float) -> Sequence[XidEvent]:
        """XIDs of the GPUs looked at so far."""
        with self._session("the driver's events cannot be read"):
            return self._events.wait(timeout_s) if self._events is not None else ()

    def compute_mode(self, uuid: str) -> str | None:
        """The mode of a physical GPU, None where it cannot be told; HardwareError."""
        with self._session(uuid) as nvml:
            handle = self._handles.get(uuid) or nvml.nvmlDeviceGetHandleByUUID(uuid)
            return facts.compute_mode(Asker(nvml, uuid, self._told), handle)

    def set_compute_mode(self, uuid: str, mode: str) -> None:
        """Sets it, until the driver is unloaded; needs root; HardwareError."""
        number = facts.COMPUTE_MODES.index(mode)
        with self._session(f"{uuid} cannot be put into compute mode {mode}") as nvml:
            handle = self._handles.get(uuid) or nvml.nvmlDeviceGetHandleByUUID(uuid)
            nvml.nvmlDeviceSetComputeMode(handle, number)

    def _open(self) -> None:
        """The lock is held."""
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
        ask = Asker(self._nvml, told=self._told, outbox=self._outbox)
        try:
            self._system = facts.read_system(ask)
        except self._nvml.NVMLError as error:
            raise _init_error(self._nvml, error) from error
        with self._naming:
            self._handles = {}
        self._events = NvmlEvents(self._nvml)
        self._lists = ProcessLists(self._nvml)
        self._sampler = Sampler(self._nvml)
        self._ready = True

    # Who is who

    def _handle(self, nvml: ModuleType, uuid: str) -> Any:
        """The handle of a physical GPU, by which it can be asked; NVMLError of this GPU's own.

        NoSuchGpuError when it has to be found first. It is not looked for by its UUID here: that
        fails, or hangs, when any other GPU is lost.
        """
        handle = self._handles.get(uuid)
        if handle is not None:
            try:
                if str(nvml.nvmlDeviceGetUUID(handle)) == uuid:
                    return handle
            except nvml.NVMLError as error:
                if error.value == nvml.NVML_ERROR_GPU_IS_LOST and self._unlisted(nvml, uuid):
                    raise GpuError(GONE.about(uuid), grave=True) from error
                if error.value != nvml.NVML_ERROR_INVALID_ARGUMENT:
                    raise
            with self._naming:
                if self._handles.get(uuid) is handle:
                    del self._handles[uuid]
        raise NoSuchGpuError(GONE.about(uuid))

    @staticmethod
    def _see_listed(ask: Asker, handle: Any) -> int | None:
        """Where the driver lists this GPU; raises what it says there, if that is nobody else's."""
        nvml = ask.nvml
        index = plausible(ask(nvml.nvmlDeviceGetIndex, handle), 1 << 16)
        try:
            if index is not None:
                nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError:
            # It may have moved meanwhile, and this may be the fault of the next GPU here.
            if ask(nvml.nvmlDeviceGetIndex, handle) == index:
                raise
            return None
        return index

    def _unlisted(self, nvml: ModuleType, uuid: str) -> bool:
        """Whether the driver says that it has no such GPU."""
        try:
            nvml.nvmlDeviceGetHandleByUUID(uuid)
        except nvml.NVMLError as error:
            return bool(error.value == nvml.NVML_ERROR_NOT_FOUND)
        return False

    def _index_of_another(self, nvml: ModuleType, uuid: str, handle: Any) -> int | None:
        """Where another GPU with this UUID is listed; None: there is none."""
        known = self._handles.get(uuid)
        if known is None or address_of(known) == address_of(handle):
            return None
        with contextlib.suppress(nvml.NVMLError):  # the handle of a GPU that was reset, or has gone
            if str(nvml.nvmlDeviceGetUUID(known)) == uuid:
                return int(nvml.nvmlDeviceGetIndex(known))
        return None

    @contextlib.contextmanager
    def _session(self, what: str, *, closes: bool = False) -> Iterator[ModuleType]:
        """The binding, for calls of one thread; translates its errors.

        `what` is the GPU concerned, or what failed if it fails. `closes`: whether an error that
        speaks of the session ends it; what one GPU says of it may be wrong.
        """
        with self._call():
            nvml = self._nvml
            if nvml is None or not self._ready:
                raise DriverError(self._why_not_ready)
            try:
                yield nvml
            except nvml.NVMLError as error:
                raise self._failed(error, what, closes=closes) from error
            except UnicodeDecodeError as error:
                text = f"{what}: the driver returned invalid UTF-8"
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
