# SPDX-License-Identifier: MPL-2.0
"""Which device files under /dev are a GPU's own, as the kernel module says."""

from __future__ import annotations

import re
from pathlib import Path

from nomad_nvidia_vgpu.gpu.model import Gpu

DRIVER = Path("/proc/driver")
"""Where the kernel module tells of itself."""

_OWN = re.compile(r"/dev/nvidia\d+|/dev/nvidia-caps/nvidia-cap\d+")
_UUID = re.compile(r"^GPU UUID:\s*(\S+)", re.MULTILINE)
_MINOR = re.compile(r"^Device Minor:\s*(\d+)", re.MULTILINE)


def is_own(path: str) -> bool:
    """Whether a device file belongs to one GPU or MIG device, not to the driver as a whole."""
    return _OWN.fullmatch(path) is not None


def own_files(gpu: Gpu, driver: Path = DRIVER) -> frozenset[str] | None:
    """The device files of a GPU; None where the kernel module does not tell.

    For a MIG device, that of its physical GPU and the two that admit to its instances.
    """
    minor = _minor(gpu, driver)
    if minor is None:
        return None
    files = {f"/dev/nvidia{minor}"}
    if gpu.parent_uuid is not None:
        part = f"gpu{minor}/gi{gpu.gpu_instance_id}"
        wanted = (f"{part}/access", f"{part}/ci{gpu.compute_instance_id}/access")
        numbers = _capabilities(driver)
        if not all(name in numbers for name in wanted):
            return None
        files |= {f"/dev/nvidia-caps/nvidia-cap{numbers[name]}" for name in wanted}
    return frozenset(files)


def _minor(gpu: Gpu, driver: Path) -> str | None:
    """The number in `/dev/nvidia<number>`; it is not NVML's index."""
    text = _text(driver / "nvidia" / "gpus" / (gpu.pci_bus_id or "unknown") / "information")
    uuid, minor = _UUID.search(text), _MINOR.search(text)
    # A GPU that nobody has opened yet is listed with question marks.
    same = uuid is None or "?" in uuid[1] or uuid[1] == (gpu.parent_uuid or gpu.uuid)
    return minor[1] if minor and same else None


def _capabilities(driver: Path) -> dict[str, str]:
    lines = _text(driver / "nvidia-caps" / "mig-minors").splitlines()
    return {words[0]: words[1] for line in lines if len(words := line.split()) == 2}  # noqa: PLR2004


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
