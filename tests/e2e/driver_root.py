# SPDX-License-Identifier: MPL-2.0
"""The files of NVIDIA's driver below a folder of their own, as its container toolkit looks for them.

The device files have the driver's own numbers. No module is behind them, so that to open one that a
container may use says "No such device", and one that it may not, "Operation not permitted".
"""

import os
import platform
import stat
from pathlib import Path

from cdi_node.node import elf
from libnvidia_ml.driver import FakeDriver

DRIVER_VERSION = "620.10"
"""New enough for limits of memory."""
NVIDIA_MAJOR = 195
CAPS_MAJOR = 236
UVM_MAJOR = 510
_CTL_MINOR = 255
_LIBRARIES = ("libcuda", "libnvidia-ptxjitcompiler")

NVIDIA_SMI = """#!/bin/sh
# Says which device files of GPUs are there, in the place of NVIDIA's program.
for file in /dev/nvidia[0-9]* /dev/nvidia-caps/* ; do
  [ -c "$file" ] && echo "device:$file"
done
echo "end of GPUs"
"""
END_OF_GPUS = "end of GPUs"


class DriverRoot:
    """The folder, for the GPUs of a fake driver; `capabilities` are those of its MIG devices."""

    def __init__(self, root: Path, driver: FakeDriver) -> None:
        """Writes libraries, programs, device files and what the kernel module would tell in /proc."""
        self.root = root
        self.proc = root / "proc"
        self._driver = driver
        self._libraries(root / f"usr/lib/{platform.machine()}-linux-gnu")
        self._programs(root / "usr/bin")
        self._devices(root / "dev")
        self._kernel_facts()

    def gpu_file(self, gpu: int) -> str:
        """The device file of a GPU, as a container sees it."""
        return f"/dev/nvidia{self._driver.get(f'gpu {gpu}', 'minor_number')}"

    def _gpus(self) -> list[int]:
        return [n for n in range(16) if self._driver.get(f"gpu {n}", "uuid") is not None]

    def mig_devices(self, gpu: int) -> list[str]:
        """The sections of the MIG devices of a GPU."""
        sections = [f"mig {gpu}.{slot}" for slot in range(7)]
        return [name for name in sections if self._driver.get(name, "uuid") is not None]

    def capabilities(self) -> dict[str, int]:
        """Minor number of each capability, by its name."""
        found: dict[str, int] = {"config": 1, "monitor": 2}
        for gpu in self._gpus():
            minor = self._driver.get(f"gpu {gpu}", "minor_number")
            for mig in self.mig_devices(gpu):
                gi, ci = self._driver.get(mig, "gi"), self._driver.get(mig, "ci")
                for name in (f"gpu{minor}/gi{gi}/access", f"gpu{minor}/gi{gi}/ci{ci}/access"):
                    found.setdefault(name, len(found) + 1)
        return found

    def _libraries(self, place: Path) -> None:
        place.mkdir(parents=True)
        version = self._driver.get("driver", "driver_version")
        fake = (self._driver.library / "libnvidia-ml.so.1").read_bytes()
        contents = {"libnvidia-ml": fake, **{n: elf(f"{n}.so.1") for n in _LIBRARIES}}
        for name, content in contents.items():
            (place / f"{name}.so.{version}").write_bytes(content)
            (place / f"{name}.so.1").symlink_to(f"{name}.so.{version}")

    def _programs(self, place: Path) -> None:
        place.mkdir(parents=True)
        (place / "nvidia-smi").write_text(NVIDIA_SMI)
        (place / "nvidia-smi").chmod(0o755)

    def _devices(self, place: Path) -> None:
        (place / "nvidia-caps").mkdir(parents=True)
        made = {"nvidiactl": (NVIDIA_MAJOR, _CTL_MINOR), "nvidia-uvm": (UVM_MAJOR, 0)}
        for gpu in self._gpus():
            minor = int(self._driver.get(f"gpu {gpu}", "minor_number") or 0)
            made[f"nvidia{minor}"] = (NVIDIA_MAJOR, minor)
        for minor in self.capabilities().values():
            made[f"nvidia-caps/nvidia-cap{minor}"] = (CAPS_MAJOR, minor)
        for name, (major, minor) in made.items():
            os.mknod(place / name, stat.S_IFCHR, os.makedev(major, minor))
            (place / name).chmod(0o666)  # whatever our umask is

    def _kernel_facts(self) -> None:
        caps = self.proc / "nvidia-caps"
        caps.mkdir(parents=True)
        lines = [f"{name} {minor}\n" for name, minor in self.capabilities().items()]
        (caps / "mig-minors").write_text("".join(lines))
        for name, minor in self.capabilities().items():
            own = name.replace("/", "/mig/", 1) if name.startswith("gpu") else f"mig/{name}"
            file = self.proc / "nvidia/capabilities" / own
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\n")
