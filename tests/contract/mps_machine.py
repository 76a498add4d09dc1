# SPDX-License-Identifier: MPL-2.0
"""A node with GPUs and MPS tools that are fake, and what the plugin does with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cuda_process import CudaProcess, cuda_process
from libnvidia_ml.driver import FakeDriver
from mps_control.control import FakeMps

from nomad_nvidia_vgpu.device.fingerprint import DeviceGroup

EXCLUSIVE, DEFAULT = 3, 0
"""Compute modes as NVML counts them."""


class MpsMachine:
    """Two H100 unless a test says otherwise, and no daemon yet."""

    def __init__(self, node: FakeDriver, fake: FakeMps, root: Path, stack: ExitStack) -> None:
        """`root` is where daemons go; processes that are started end with `stack`."""
        self.node = node
        self.fake = fake
        self.root = root
        self._stack = stack
        self.become("h100x8", 2)

    def become(self, profile: str, gpus: int = 8) -> None:
        """Has the first so many GPUs of this profile."""
        self.node.load(profile)
        for index in range(gpus, 8):
            if self.node.get(f"gpu {index}", "uuid") is not None:
                self.node.remove_section(f"gpu {index}")

    def uuid(self, gpu: int | str = 0) -> str:
        """Gives a GPU's UUID by its index, or that of a section such as `mig 0.0`."""
        found = self.node.get(f"gpu {gpu}" if isinstance(gpu, int) else gpu, "uuid")
        assert found is not None
        return found

    def memory_mib(self, gpu: int = 0) -> int:
        """Gives a GPU's memory."""
        return int(self.node.get(f"gpu {gpu}", "memory_total_mib") or 0)

    def ids(self, *numbers: int, gpu: int = 0) -> list[str]:
        """Gives the ids of some vGPUs."""
        return [f"{self.uuid(gpu)}-{number}" for number in numbers]

    def config(self, **mps: Any) -> dict[str, Any]:
        """Gives a config that shares each GPU by 4, with these options of the mps block."""
        return {"vgpus": 4, "sharing": "mps", **self.root_only(**mps)}

    def root_only(self, **mps: Any) -> dict[str, Any]:
        """Gives the mps block alone, and a pace that leaves a busy machine time to breathe."""
        return {"fingerprint_period": "1s", "mps": {"root": str(self.root), **mps}}

    def pipe(self, gpu: int = 0) -> Path:
        """Gives where clients meet a GPU's daemon."""
        return self.root / self.uuid(gpu) / "pipe"

    def daemon(self, gpu: int = 0) -> int:
        """Gives the pid of a GPU's only daemon."""
        (found,) = self.fake.daemons(self.pipe(gpu))
        return found.pid

    def modes(self) -> list[int | None]:
        """Gives the compute mode of each GPU."""
        sections = [f"gpu {index}" for index in range(8)]
        return [self.node.compute_mode(s) for s in sections if self.node.get(s, "uuid")]

    def task(self, environment: Mapping[str, str]) -> CudaProcess:
        """Starts a process on a GPU as a task would, with a reservation's variables."""
        return self._stack.enter_context(cuda_process(self.fake, environment))

    def end_tasks(self) -> None:
        """Ends all that `task` started."""
        self._stack.close()


def attribute(groups: tuple[DeviceGroup, ...], name: str) -> dict[str, object]:
    """Gives one attribute of each group, by the UUID of its GPU; left out where it is missing."""
    return {str(_value(g, "gpu_uuid")): _value(g, name) for g in groups if name in g.attributes}


def _value(group: DeviceGroup, name: str) -> object:
    return group.attributes[name].value


def eventually(true: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits until something holds that no stream tells of; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)  # between two looks at other processes
