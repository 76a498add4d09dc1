# SPDX-License-Identifier: MPL-2.0
"""What is known of a GPU: its lasting facts, a sample of its moving figures, and its health.

A fact that the GPU or its driver does not give is None, never zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from nomad_nvidia_vgpu.errors import NOTHING, Problem
from nomad_nvidia_vgpu.gpu.figures import FIGURES

_COMPUTE_INSTANCE = re.compile(r"(?P<slices>[1-9])c\.(?P<all>[1-9])g\.")


class Gpu(NamedTuple):
    """A physical GPU, or a MIG device of one; the lasting facts only.

    Nothing here moves while the driver runs, so that equal GPUs stay equal between two looks.
    """

    uuid: str
    """NVML's UUID: `GPU-…`, or `MIG-…` for a MIG device."""
    model: str
    """NVML's name, such as `NVIDIA A100-SXM4-80GB`; clean text, never empty."""
    parent_uuid: str | None = None
    """For a MIG device, the UUID of its physical GPU."""
    mig_profile: str | None = None
    """For a MIG device, its profile, such as `3g.20gb` or `1c.3g.20gb`."""
    gpu_instance_id: int | None = None
    """For a MIG device, the number of its GPU instance, by which the driver names it in events."""
    compute_instance_id: int | None = None
    memory_mib: int | None = None
    """Total memory as NVML reports it (less than on the box)."""
    bar1_mib: int | None = None
    power_limit_w: int | None = None
    """The limit in force, not the present draw."""
    cores_clock_mhz: int | None = None
    """The highest SM clock, not the present one."""
    memory_clock_mhz: int | None = None
    """The highest memory clock."""
    pci_bandwidth_mb_s: int | None = None
    """Payload in one direction of the best link this GPU can have in this slot."""
    pci_bus_id: str | None = None
    """As in sysfs (`0000:c1:00.0`); the parent's for a MIG device."""
    driver_index: int | None = None
    """Where the driver lists the GPU now, as `nvidia-smi` numbers it; the parent's for a MIG device.

    For people: it moves when GPUs come and go, so nothing is known by it.
    """
    display_state: str | None = None
    """`Enabled` or `Disabled`."""
    persistence_mode: str | None = None
    """`Enabled` or `Disabled`."""
    compute_mode: str | None = None
    """Who may open a CUDA context, in the words of `nvidia-smi -c`; None for a MIG device."""
    driver_version: str | None = None
    cuda_driver_version: float | None = None
    """The newest CUDA that the driver supports, such as 13.0."""
    cuda_compute_capability: float | None = None
    architecture: str | None = None
    """NVIDIA's name in lower case, such as `hopper`."""
    unified_memory: bool = False
    """The GPU has no memory of its own: `memory_mib` is the system's."""
    simulated: bool = False
    host_memory_mib: int = 0
    """What of unified memory stays with the host, and is nobody's share."""

    @property
    def own_memory_mib(self) -> int | None:
        """The memory that its tasks may count on together.

        Compute instances of one GPU instance share its memory, and NVML gives all of it as the
        total of each: one has the part that it has of the compute slices.
        """
        if self.memory_mib is None:
            return None
        part = _COMPUTE_INSTANCE.match(self.mig_profile or "")
        if part is None:
            return self.memory_mib - self.host_memory_mib
        return self.memory_mib * int(part["slices"]) // int(part["all"])

    @property
    def owns_gpu_instance(self) -> bool:
        """Whether this is a MIG device that shares its memory with no other MIG device.

        `1c.3g.20gb` is one of several compute instances in a GPU instance; `3g.20gb` is all of it.
        """
        return self.mig_profile is not None and "c." not in self.mig_profile.split("g.")[0]


DEFAULT = "DEFAULT"
"""The compute mode in which any number of processes may use a GPU."""
EXCLUSIVE_PROCESS = "EXCLUSIVE_PROCESS"
"""The compute mode in which one process may: with MPS, the server."""


class Ratio(NamedTuple):
    """A figure and what it is out of."""

    value: int
    total: int | None = None


class GpuSample:
    """The moving figures of a GPU at one moment, each by its field in `FIGURES`; None: not known."""

    __slots__ = ("figures", "taken_at")

    def __init__(self, taken_at: datetime, **figures: int | Ratio | None) -> None:
        """`taken_at` is in UTC. What is not known may be None or left out."""
        self.taken_at = taken_at
        self.figures = {field: value for field, value in figures.items() if value is not None}
        if unknown := figures.keys() - _FIELDS:
            raise TypeError(f"there is no figure {', '.join(sorted(unknown))}")

    def __getattr__(self, field: str) -> Any:
        """A figure by its field."""
        if field not in _FIELDS:
            raise AttributeError(field)
        return self.figures.get(field)

    def __eq__(self, other: object) -> bool:
        """Whether it is the same moment with the same figures."""
        return isinstance(other, GpuSample) and (self.taken_at, self.figures) == (
            other.taken_at,
            other.figures,
        )

    def __hash__(self) -> int:
        """By the moment: it holds a dict."""
        return hash(self.taken_at)

    def replaced(self, **changes: int | Ratio | None) -> "GpuSample":
        """The same with other figures."""
        return GpuSample(self.taken_at, **{**self.figures, **changes})


_FIELDS = frozenset(figure.field for figure in FIGURES)


class GpuProcess(NamedTuple):
    """A process that has a GPU, or a MIG device, open."""

    pid: int
    """As the driver numbers it: in the host's PID namespace."""
    memory_mib: int | None
    """What it has allocated there; None: the driver does not tell."""
    kind: str
    """`compute`, `graphics`, or `mps` for a client of an MPS server."""


class Health(NamedTuple):
    """Whether a GPU can be used, and if not, why and what to do."""

    healthy: bool
    reason: Problem = NOTHING
    """Short and stable: each change of it costs the cluster a round of evaluations."""
    grave: bool = False
    """Whether nothing on the GPU will work again before a reset or a reboot."""


HEALTHY = Health(True)


class SeenGpu(NamedTuple):
    """A GPU that was seen at least once, and how it is now."""

    gpu: Gpu
    health: Health


class Inventory(NamedTuple):
    """All GPUs of the node, ordered by UUID."""

    gpus: tuple[SeenGpu, ...] = ()


class Signals(NamedTuple):
    """What lasts in the driver, as one look read it; None: this GPU or driver does not tell."""

    recovery_action: int | None = None
    """NVML's field 230; 0 is none."""
    row_remap_failed: bool | None = None
    """A row of the memory could not be replaced. (A replacement that is *pending* is no fault.)"""
    energy_mj: int | None = None
    """Millijoules drawn since the GPU was reset or its driver loaded: less than before says so."""


class XidEvent(NamedTuple):
    """An XID that the driver reported."""

    physical_uuid: str
    xid: int
    gpu_instance: int | None = None
    """The MIG instance concerned; None: the whole GPU."""
    compute_instance: int | None = None

    def may_concern(self, gpu: Gpu) -> bool:
        """Whether it names this GPU, this MIG device, or all of what they are part of."""
        if self.physical_uuid not in (gpu.uuid, gpu.parent_uuid):
            return False
        named = (
            (self.gpu_instance, gpu.gpu_instance_id),
            (self.compute_instance, gpu.compute_instance_id),
        )
        return all(number in (None, own) for number, own in named)


class Look(NamedTuple):
    """What one look at one physical GPU found."""

    physical_uuid: str
    gpus: tuple[Gpu, ...]
    """The GPU itself, or its MIG devices (possibly none) when it is in MIG mode."""
    signals: Signals = Signals()


class ComputeModes(Protocol):
    """Reads and sets the compute mode of physical GPUs. Each call may block in the driver."""

    def compute_mode(self, uuid: str) -> str | None:
        """The mode in the words of `nvidia-smi -c`, None where there is none; HardwareError."""

    def set_compute_mode(self, uuid: str, mode: str) -> None:
        """Sets it; HardwareError with the remedy."""


class GpuSource(ComputeModes, Protocol):
    """Where GPUs come from: NVML, or simulation.

    Each call may block for as long as a driver pleases, so each is made by a thread that can be
    given up. Different GPUs may be asked at the same time.
    """

    def open(self) -> None:
        """Makes the driver ready if it is not yet; DriverError with the remedy if it cannot."""

    def count(self) -> int:
        """How many physical GPUs the driver counts; HardwareError."""

    def find(self, index: int) -> str:
        """The UUID of the physical GPU that the driver lists here now; HardwareError.

        Who fails here is not known: the GPUs may have been numbered again since the last time.
        NoSuchGpuError when `count` is less than `index` by now.
        """

    def look(self, uuid: str) -> Look:
        """The lasting facts of one physical GPU or its MIG devices; HardwareError of this one's.

        NoSuchGpuError when it has to be found first.
        """

    def sample(self, uuid: str) -> Mapping[str, GpuSample]:
        """The moving figures, by UUID, of what `look` found on this physical GPU; HardwareError."""

    def processes(self, uuid: str) -> Mapping[str, Sequence[GpuProcess]]:
        """The processes on what `look` found on this physical GPU, by UUID; HardwareError.

        A GPU of which they are not known is left out; one that nobody uses has none.
        """

    def wait_for_events(self, timeout_s: float) -> Sequence[XidEvent]:
        """The XIDs of the next moments, of all GPUs looked at so far; HardwareError.

        Returns at the first, or with none after `timeout_s` - or much earlier, when there is
        nothing that could report any: the caller must not spin.
        """
