# SPDX-License-Identifier: MPL-2.0
"""All that the driver says in one look, with what it fails to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nomad_nvidia_vgpu.errors import NOTHING, DriverError, HardwareError, Problem
from nomad_nvidia_vgpu.gpu.model import GpuSample, GpuSource, Inventory, Look
from nomad_nvidia_vgpu.gpu.nvml.library import loaded_library
from nomad_nvidia_vgpu.gpu.nvml.record import FailedQuery, RecordedNvml
from nomad_nvidia_vgpu.gpu.nvml.source import NvmlSource
from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus
from nomad_nvidia_vgpu.gpu.source import source_of
from nomad_nvidia_vgpu.gpu.survey import survey

_LIBRARY = "libnvidia-ml.so.1"


class PhysicalGpu(NamedTuple):
    """A physical GPU, by what was asked of it."""

    uuid: str
    parts: tuple[str, ...]
    """UUIDs of what is offered of it: its own, or those of its MIG devices (possibly none)."""
    failed: tuple[FailedQuery, ...] = ()
    sampled: bool = True
    """Whether it gave its moving figures."""
    mig_pending: bool | None = None
    """Whether it will be in MIG mode after a reset; None if it has no such mode."""

    @property
    def mig(self) -> bool:
        """Whether it is in MIG mode."""
        return self.parts != (self.uuid,)


class DriverLook(NamedTuple):
    """What the driver says."""

    problem: Problem = NOTHING
    """Why it cannot be used at all, with the remedy."""
    simulated: bool = False
    library: str | None = None
    """The file that was loaded."""
    version: str | None = None
    inventory: Inventory = Inventory()
    physical: tuple[PhysicalGpu, ...] = ()
    problems: tuple[Problem, ...] = ()
    """One sentence for each GPU that does not tell its UUID."""


def look_at_driver(simulate: Sequence[SimulatedGpus]) -> DriverLook:
    """One look at all GPUs, simulated ones if any are given. Blocks as long as the driver does."""
    if simulate:
        return _looked(_Recorded(source_of(simulate), None), DriverLook(simulated=True))
    record: RecordedNvml | None = None

    def recorded(nvml: Any) -> RecordedNvml:
        nonlocal record
        record = RecordedNvml(nvml)
        return record

    source = NvmlSource(recorded)
    try:
        source.open()
    except DriverError as error:
        return DriverLook(problem=error.problem, library=_library())
    assert record is not None
    version = record.answers.get("nvmlSystemGetDriverVersion")
    record.drain()
    return _looked(_Recorded(source, record), DriverLook(library=_library(), version=version))


def _looked(source: _Recorded, so_far: DriverLook) -> DriverLook:
    try:
        found = survey(source)
    except HardwareError as error:
        return so_far._replace(problem=error.problem)
    return so_far._replace(
        inventory=found.inventory, physical=tuple(source.physical), problems=found.problems
    )


def _library() -> str | None:
    found = loaded_library(_LIBRARY)
    return None if found is None else str(found.link.resolve())


class _Recorded:
    """A source that remembers, for each GPU, what failed while it was asked."""

    def __init__(self, source: GpuSource, record: RecordedNvml | None) -> None:
        self._source = source
        self._record = record
        self.physical: list[PhysicalGpu] = []

    def look(self, uuid: str) -> Look:
        """As the source; HardwareError."""
        self._drained()
        look = self._source.look(uuid)
        parts = tuple(gpu.uuid for gpu in look.gpus)
        mode = self._record.answers.pop("nvmlDeviceGetMigMode", None) if self._record else None
        self.physical.append(
            PhysicalGpu(
                look.physical_uuid,
                parts,
                failed=self._drained(),
                mig_pending=None if mode is None else bool(mode[1]),
            )
        )
        return look

    def sample(self, uuid: str) -> Mapping[str, GpuSample]:
        """As the source; HardwareError."""
        looked = self.physical.pop()  # a sample follows its look
        sampled = False
        try:
            samples = self._source.sample(uuid)
            sampled = True
        finally:
            failed = (*looked.failed, *self._drained())
            unique = tuple(dict.fromkeys(failed))
            self.physical.append(looked._replace(failed=unique, sampled=sampled))
        return samples

    def _drained(self) -> tuple[FailedQuery, ...]:
        return self._record.drain() if self._record else ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)
