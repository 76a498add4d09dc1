# SPDX-License-Identifier: MPL-2.0
"""Real GPUs as data, for simulation, and the words that ask for them.

The figures were read off real cards (sources: `nvidia-smi` output of drivers 535 to 610 in
public repositories, NVIDIA's MIG guide). What nobody has published is None and left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

MAX_SIMULATED = 64


class MigProfile(NamedTuple):
    """How much of a GPU one kind of GPU instance takes."""

    compute_slices: int
    """Of the GPU's 7."""
    memory_slices: int
    """Of the GPU's 8."""
    memory_mib: int | None = None
    """As measured; None: the slices' part of the total."""


class GpuProfile(NamedTuple):
    """The lasting facts of one model, and how it idles."""

    model: str
    memory_mib: int | None
    bar1_mib: int | None
    power_limit_w: int | None
    cores_clock_mhz: int | None
    memory_clock_mhz: int | None
    pcie: tuple[int, int] | None
    """Generation and width."""
    architecture: str
    compute_capability: float
    idle_w: int
    idle_c: int
    mig: Mapping[str, MigProfile] = {}
    unified_memory: bool = False
    ecc: bool = True
    """Whether error correction is on, so that errors are counted."""


class SimulatedGpus(NamedTuple):
    """One entry of `simulate`."""

    profile: str
    number: int
    """How many such GPUs."""
    mig: tuple[str, ...] = ()
    """MIG devices that each of these GPUs is cut into; empty: not in MIG mode."""


def _mig_table(sizes: str, known: Mapping[str, int] | None = None) -> dict[str, MigProfile]:
    """The profiles of a GPU of 7 compute and 8 memory slices, by the sizes in their names.

    `sizes` are those of 1g, 1g with twice the memory, 2g, 3g and 4g, and 7g.
    """
    small, double, two, half, whole = sizes.split()
    names = {
        f"1g.{small}": (1, 1),
        f"1g.{double}": (1, 2),
        f"2g.{two}": (2, 2),
        f"3g.{half}": (3, 4),
        f"4g.{half}": (4, 4),
        f"7g.{whole}": (7, 8),
    }
    return {
        name: MigProfile(compute, memory, (known or {}).get(name))
        for name, (compute, memory) in names.items()
    }


_A100_40 = _mig_table("5gb 10gb 10gb 20gb 40gb", {"3g.20gb": 19968, "4g.20gb": 19968})
_A100_80 = _mig_table("10gb 20gb 20gb 40gb 80gb")
_H100_80 = _mig_table(
    "10gb 20gb 20gb 40gb 80gb", {"1g.10gb": 9984, "2g.20gb": 20096, "3g.40gb": 40448}
)
_H100_NVL = _mig_table("12gb 24gb 24gb 47gb 94gb")
_H200 = _mig_table(
    "18gb 35gb 35gb 71gb 141gb", {"1g.18gb": 16384, "2g.35gb": 33280, "3g.71gb": 71424}
)
_B200 = _mig_table("23gb 45gb 45gb 90gb 180gb")

# fmt: off  (a table is read by its columns)
PROFILES: Mapping[str, GpuProfile] = {
    "t4": GpuProfile("Tesla T4", 15360, 256, 70, 1590, 5001, (3, 16), "turing", 7.5, 10, 35),
    "v100-sxm2-32gb": GpuProfile(
        "Tesla V100-SXM2-32GB", 32768, None, 300, 1530, 877, (3, 16), "volta", 7.0, 42, 34
    ),
    "a10": GpuProfile("NVIDIA A10", 23028, None, 150, None, None, None, "ampere", 8.6, 20, 34),
    "a10g": GpuProfile(
        "NVIDIA A10G", 23028, 32768, 300, 1710, 6251, (4, 16), "ampere", 8.6, 20, 30
    ),
    "l4": GpuProfile("NVIDIA L4", 23034, 32768, 72, 2040, 6251, (4, 16), "ada", 8.9, 16, 33),
    "l40s": GpuProfile("NVIDIA L40S", 46068, 65536, 350, 2520, 9001, (4, 16), "ada", 8.9, 35, 32),
    "a100-sxm4-40gb": GpuProfile(
        "NVIDIA A100-SXM4-40GB",
        40960,
        65536,
        400,
        1410,
        1215,
        (4, 16),
        "ampere",
        8.0,
        67,
        36,
        _A100_40,
    ),
    "a100-sxm4-80gb": GpuProfile(
        "NVIDIA A100-SXM4-80GB",
        81920,
        131072,
        500,
        1410,
        1593,
        (4, 16),
        "ampere",
        8.0,
        62,
        34,
        _A100_80,
    ),
    "h100-80gb-hbm3": GpuProfile(
        "NVIDIA H100 80GB HBM3",
        81559,
        131072,
        700,
        1980,
        2619,
        (5, 16),
        "hopper",
        9.0,
        70,
        41,
        _H100_80,
    ),
    "h100-nvl": GpuProfile(
        "NVIDIA H100 NVL", 95830, 131072, 310, 1785, 2619, (5, 16), "hopper", 9.0, 60, 36, _H100_NVL
    ),
    "h200": GpuProfile(
        "NVIDIA H200", 143771, 262144, 700, 1980, 3201, (5, 16), "hopper", 9.0, 76, 28, _H200
    ),
    "b200": GpuProfile(
        "NVIDIA B200", 183359, None, 1000, None, 3996, None, "blackwell", 10.0, 140, 32, _B200
    ),
    "gb200": GpuProfile(
        "NVIDIA GB200", 189471, None, None, None, None, None, "blackwell", 10.0, 150, 32
    ),
    "rtx-4090": GpuProfile(
        "NVIDIA GeForce RTX 4090",
        24564,
        32768,
        450,
        3105,
        10501,
        (4, 16),
        "ada",
        8.9,
        27,
        40,
        ecc=False,
    ),
    # GB10 reports no memory of its own: the figure stands for a node with 128 GB.
    "gb10": GpuProfile(
        "NVIDIA GB10",
        122572,
        None,
        None,
        None,
        None,
        None,
        "blackwell",
        12.1,
        4,
        38,
        unified_memory=True,
        ecc=False,
    ),
}
# fmt: on

_ENTRY = re.compile(r"(?P<profile>[^:]+)(?::(?P<count>[0-9]{1,18})(?::(?P<mig>[^:]+))?)?")
_COMPUTE_SLICES = 7
_MEMORY_SLICES = 8


def parse_simulated(value: object) -> SimulatedGpus:
    """One entry such as `a100-sxm4-40gb:2:3g.20gb,3g.20gb`; upper case in the profile is let pass.

    ValueError with what it must be, the middle of a sentence between option and value.
    """
    match = _ENTRY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('must be "<profile>[:<count>[:<MIG profile>,…]]", such as "l4:2"')
    name, count = match["profile"].lower(), int(match["count"] or 1)
    if name not in PROFILES:
        raise ValueError(f"must name one of the profiles {', '.join(PROFILES)}")
    if not 1 <= count <= MAX_SIMULATED:
        raise ValueError(f"must ask for 1 to {MAX_SIMULATED} GPUs")
    layout = tuple(part.strip() for part in match["mig"].split(",")) if match["mig"] else ()
    _check_layout(name, layout)
    return SimulatedGpus(name, count, layout)


def gpu_instance_profile(mig_profile: str) -> str:
    """`3g.20gb` for both `3g.20gb` and `1c.3g.20gb`, a compute instance within one."""
    return re.sub(r"^[1-7]c\.", "", mig_profile)


def gpu_instances(layout: tuple[str, ...]) -> list[list[str]]:
    """The MIG devices of each GPU instance, in order.

    A `1c.3g.20gb` joins the `…c.3g.20gb` before it while the instance has compute slices left.
    """
    instances: list[list[str]] = []
    free = 0
    for device in layout:
        instance = gpu_instance_profile(device)
        slices = int(instance.partition("g.")[0])
        taken = int(device.partition("c.")[0]) if device != instance else slices
        if instances and taken <= free and gpu_instance_profile(instances[-1][-1]) == instance:
            instances[-1].append(device)
            free -= taken
        else:
            instances.append([device])
            free = slices - taken
    return instances


def _check_layout(name: str, layout: tuple[str, ...]) -> None:
    table = PROFILES[name].mig
    if layout and not table:
        raise ValueError(f"must not give MIG profiles for {name}")
    for device in layout:
        instance = gpu_instance_profile(device)
        if instance not in table or (
            device != instance and int(device[0]) >= table[instance].compute_slices
        ):
            raise ValueError(
                f"must give MIG profiles of {name} ({', '.join(table)}, or a part of one such as "
                f"1c.{list(table)[3]})"
            )
    taken = [table[gpu_instance_profile(devices[0])] for devices in gpu_instances(layout)]
    if (
        sum(t.compute_slices for t in taken) > _COMPUTE_SLICES
        or sum(t.memory_slices for t in taken) > _MEMORY_SLICES
    ):
        raise ValueError(
            f"must fit on one {name} ({_COMPUTE_SLICES} compute and {_MEMORY_SLICES} memory slices)"
        )
