# SPDX-License-Identifier: MPL-2.0
"""The moving figures of a GPU. A new figure is one line here.

From `FIGURES` come what is asked of the driver (`gpu/nvml/sampling.py`), the stats that Nomad shows
(`device/stats.py`) and the metrics of Prometheus (`metrics/families.py`). Names and units of stats
are the official plugin's.
"""

from __future__ import annotations

from typing import NamedTuple

_MIB = 1 << 20


class Query(NamedTuple):
    """How NVML is asked, and what of the answer is plausible."""

    function: str
    most: int
    """The largest plausible value, in NVML's unit; above it the figure is not known."""
    constants: tuple[str, ...] = ()
    """Arguments after the handle, by their names in NVML."""
    part: str | int | None = None
    """The field or the place of the value in the answer; None: it is the answer."""
    total: str | None = None
    """The field of what the value is out of."""
    per_unit: int = 1
    """How many of NVML's units make one of ours."""


class Export(NamedTuple):
    """How a figure is shown to Prometheus, in base units."""

    name: str
    doc: str
    times: int = 1
    """How many base units make one of ours."""
    per_unit: int = 1
    """How many of ours make a base unit."""
    kind: str = "gauge"
    of_total: bool = False
    """Whether it is what the value is out of."""
    location: str | None = None
    """Where several figures are one metric: the label that tells them apart."""


class Figure(NamedTuple):
    """One figure, and all who ask for it or show it."""

    field: str
    """Its name in a `GpuSample`."""
    unit: str
    stat: str | None
    """Its name as a stat of Nomad; None: it is none."""
    desc: str
    query: Query
    exports: tuple[Export, ...] = ()
    of_board: bool = False
    """Whether only the physical GPU knows it, and all its MIG devices show the same."""


_PERCENT, _COUNT, _BYTES = 100, 1 << 48, 1 << 46
_UNCORRECTED = ("NVML_MEMORY_ERROR_TYPE_UNCORRECTED", "NVML_VOLATILE_ECC")
_ECC = (
    "Uncorrected errors of the physical GPU since its driver was loaded, in `l1`, `l2` or `memory`"
)


def _ecc(field: str, stat: str, where: str, location: str, memory: str) -> Figure:
    query = Query(
        "nvmlDeviceGetMemoryErrorCounter",
        _COUNT,
        (*_UNCORRECTED, f"NVML_MEMORY_LOCATION_{memory}"),
    )
    export = Export("gpu_ecc_errors_total", _ECC, kind="counter", location=location)
    desc = f"Uncorrected errors in {where} since the driver loaded"
    return Figure(field, "#", stat, desc, query, (export,), of_board=True)


def _busy(field: str, stat: str, doing: str, query: Query, export: Export) -> Figure:
    return Figure(field, "%", stat, f"Time in which {doing}", query, (export,))


def _ratio(name: str, doing: str) -> Export:
    return Export(name, f"Part of the time in which {doing}, 0 to 1", per_unit=100)


FIGURES: tuple[Figure, ...] = (
    Figure(
        "power_w",
        "W",
        "Power usage",
        "Power drawn by the GPU, out of its limit",
        Query("nvmlDeviceGetPowerUsage", 100_000_000, per_unit=1000),
        (
            Export("gpu_power_watts", "Power that the physical GPU draws"),
            Export(
                "gpu_power_limit_watts",
                "The most power that the physical GPU may draw",
                of_total=True,
            ),
        ),
        of_board=True,
    ),
    _busy(
        "gpu_utilization_percent",
        "GPU utilization",
        "a kernel ran on the GPU",
        Query("nvmlDeviceGetUtilizationRates", _PERCENT, part="gpu"),
        _ratio("gpu_utilization_ratio", "a kernel ran on the GPU"),
    ),
    _busy(
        "memory_utilization_percent",
        "Memory utilization",
        "the GPU's memory was read or written",
        Query("nvmlDeviceGetUtilizationRates", _PERCENT, part="memory"),
        Export(
            "gpu_memory_controller_utilization_ratio",
            "Part of the time in which memory was read or written, 0 to 1; not how full it is",
            per_unit=100,
        ),
    ),
    _busy(
        "encoder_utilization_percent",
        "Encoder utilization",
        "video was encoded",
        Query("nvmlDeviceGetEncoderUtilization", _PERCENT, part=0),
        _ratio("gpu_encoder_utilization_ratio", "video was encoded"),
    ),
    _busy(
        "decoder_utilization_percent",
        "Decoder utilization",
        "video was decoded",
        Query("nvmlDeviceGetDecoderUtilization", _PERCENT, part=0),
        _ratio("gpu_decoder_utilization_ratio", "video was decoded"),
    ),
    Figure(
        "temperature_c",
        "C",
        "Temperature",
        "Temperature of the GPU",
        Query("nvmlDeviceGetTemperature", 200, ("NVML_TEMPERATURE_GPU",)),
        (Export("gpu_temperature_celsius", "Temperature of the physical GPU"),),
        of_board=True,
    ),
    Figure(
        "memory_mib",
        "MiB",
        "Memory state",
        "Memory in use on the GPU, out of its total",
        # Without what the driver keeps for itself, which the first form of the query counts as used.
        Query(
            "nvmlDeviceGetMemoryInfo",
            _BYTES,
            ("nvmlMemory_v2",),
            part="used",
            total="total",
            per_unit=_MIB,
        ),
        (Export("gpu_memory_used_bytes", "Memory in use, by whatever process", times=_MIB),),
    ),
    Figure(
        "bar1_mib",
        "MiB",
        "BAR1 buffer state",
        "BAR1 memory in use, out of its total",
        Query(
            "nvmlDeviceGetBAR1MemoryInfo",
            _BYTES,
            part="bar1Used",
            total="bar1Total",
            per_unit=_MIB,
        ),
        (
            Export("gpu_bar1_used_bytes", "BAR1 memory in use", times=_MIB),
            Export("gpu_bar1_total_bytes", "BAR1 memory of the GPU", times=_MIB, of_total=True),
        ),
    ),
    _ecc("ecc_l1_errors", "ECC L1 errors", "L1", "l1", "L1_CACHE"),
    _ecc("ecc_l2_errors", "ECC L2 errors", "L2", "l2", "L2_CACHE"),
    _ecc("ecc_memory_errors", "ECC memory errors", "memory", "memory", "DEVICE_MEMORY"),
    Figure(
        "energy_mj",
        "mJ",
        None,
        "Energy drawn since the driver was loaded; it starts at zero again with it",
        Query("nvmlDeviceGetTotalEnergyConsumption", 1 << 62),
        (
            Export(
                "gpu_energy_joules_total",
                "Energy that the physical GPU has drawn since its driver was loaded",
                per_unit=1000,
                kind="counter",
            ),
        ),
        of_board=True,
    ),
)
