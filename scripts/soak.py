# SPDX-License-Identifier: MPL-2.0
"""Judges 500 random states, then runs the installed plugin for minutes with random faults.

First, in a process of its own, 8 GPUs are removed, lost, failing, hanging and numbered again at
random, and what is said of them is compared with the truth. Then the plugin serves its streams
over the fake driver while faults come and go.

Fails when a GPU is charged with the fault of another, the stream ends, threads, descriptors or
memory grow, or the end is not as the start.
`python -m scripts.soak [seconds] [seed] [states]`; ten minutes, a random seed and 500 by default.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import psutil
from libnvidia_ml.driver import FakeDriver, build
from random_states import Cost, cost_of, run_apart

from nomad_nvidia_vgpu.cookie import COOKIE_KEY, COOKIE_VALUE, PROTOCOL_VERSION
from nomad_nvidia_vgpu.device.fingerprint import DeviceGroup
from nomad_nvidia_vgpu.goplugin.handshake import Handshake
from nomad_nvidia_vgpu.rpc.client import Host

GPUS = 8
XID = 0x8
MEMORY_MARGIN_KIB = 3 * 1024
THREADS_MARGIN = GPUS
"""A slow moment splits the rounds of samples, at most into one for each GPU."""
WARM_UP = 0.2
"""The part of the time after which memory, threads and descriptors must not grow any more."""

Faults = dict[tuple[str, str], None]


class Seen:
    """What the streams brought, read by threads of their own."""

    def __init__(self, host: Host) -> None:
        """Starts reading."""
        self.groups: tuple[DeviceGroup, ...] = ()
        self.fingerprints = 0
        self.stats = 0
        self._host = host
        for read in (self._read_fingerprints, self._read_stats):
            threading.Thread(target=read, daemon=True).start()

    @property
    def healthy(self) -> int:
        """How many vGPUs are healthy."""
        return sum(i.healthy for g in self.groups for i in g.instances)

    def _read_fingerprints(self) -> None:
        with contextlib.suppress(grpc.RpcError):  # how every stream ends when its plugin is stopped
            for groups in self._host.fingerprints():
                self.groups = groups
                self.fingerprints += 1

    def _read_stats(self) -> None:
        with contextlib.suppress(grpc.RpcError):
            for _stats in self._host.stats(1.0):
                self.stats += 1


def disturb(node: FakeDriver, dice: random.Random, faults: Faults) -> str:
    """Switches one fault on, or all off; what it was."""
    gpu = f"gpu {dice.randrange(GPUS)}"
    choice = dice.randrange(7)
    if choice == 0:
        node.push_event(dice.randrange(GPUS), XID, dice.choice([13, 31, 48, 79, 94, 119, 777]))
        return "XID"
    if choice == 1:
        calm(node, faults)
        return "all off"
    section, key, value = (
        (gpu, "lost", 1),
        (gpu, "recovery_action", dice.choice([1, 2])),
        (gpu, "removed", 1),
        (gpu, "fault.nvmlDeviceGetMemoryInfo", dice.choice([15, 16, 999])),
        ("driver", "fault.nvmlDeviceGetCount_v2", dice.choice([1, 9, 999])),
    )[choice - 2]
    node.set(section, key, value)
    faults[section, key] = None
    return key


def calm(node: FakeDriver, faults: Faults) -> None:
    """Switches every fault off."""
    for section, key in list(faults):
        if key == "recovery_action":
            node.set(section, key, 0)
        else:
            node.clear(section, key)
        del faults[section, key]


def judged(states: int, seed: int) -> list[str]:
    """One sentence for each random state that was not told as it was."""
    with tempfile.TemporaryDirectory() as workspace:
        try:
            print(run_apart(build(Path(workspace) / "lib"), Path(workspace), states, seed))
        except AssertionError as error:
            return [str(error)]
    return []


def soak(seconds: float, seed: int) -> list[str]:
    """One sentence for each promise that was broken."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as workspace:
        node = FakeDriver(build(Path(workspace) / "lib"), Path(workspace), "h100x8")
        program = Path(sys.executable).with_name("nvidia-vgpu")
        environment = {**os.environ, **node.environment()}
        environment.pop("FAKE_NVML_CALLS", None)  # ten minutes of calls are a large file
        handshake = Handshake(COOKIE_KEY, COOKIE_VALUE, PROTOCOL_VERSION)
        with Host([str(program)], handshake, environment=environment) as host:
            host.set_config(
                {"vgpus": 16, "fingerprint_period": "500ms", "health": {"recovery_period": "1s"}}
            )
            return _watch(host, node, dice, seconds)


def _watch(host: Host, node: FakeDriver, dice: random.Random, seconds: float) -> list[str]:
    process = psutil.Process(host.plugin.process.pid)
    seen, faults, injected = Seen(host), Faults(), Counter[str]()
    began = time.monotonic()
    early: Cost | None = None
    while (elapsed := time.monotonic() - began) < seconds:
        injected[disturb(node, dice, faults)] += 1
        if early is None and elapsed > WARM_UP * seconds:
            early = cost_of(process)
        if sys.stdout.isatty():
            print(f"\r{elapsed:5.0f} s  healthy {seen.healthy:3d}  {cost_of(process)}", end="")
        time.sleep(dice.uniform(0.2, 2.0))
    calm(node, faults)
    deadline = time.monotonic() + 90
    while seen.healthy != GPUS * 16 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert early is not None
    late = cost_of(process)
    print(
        f"\n{seen.fingerprints} fingerprints, {seen.stats} stats\nfaults injected: {dict(injected)}"
        f"\nbefore: {early}\nafter:  {late}"
    )
    problems = []
    if seen.healthy != GPUS * 16:
        problems.append(
            f"{seen.healthy} of {GPUS * 16} vGPUs are healthy after all faults are gone"
        )
    if seen.stats < 0.9 * seconds:
        problems.append(f"only {seen.stats} stats in {seconds:.0f} s: the stream was interrupted")
    problems += _grown(early, late)
    if host.plugin.process.poll() is not None:
        problems.append(f"the plugin ended with {host.plugin.process.returncode}")
    return problems


def _grown(early: Cost, late: Cost) -> list[str]:
    margins = (MEMORY_MARGIN_KIB, THREADS_MARGIN, 2)
    return [
        f"{name} grew from {before} to {after}"
        for name, before, after, margin in zip(Cost._fields, early, late, margins, strict=False)
        if after > before + margin
    ]


if __name__ == "__main__":
    duration_s = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    chosen_seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    states = int(sys.argv[3]) if len(sys.argv) > 3 else 500
    print(f"soak of {states} states and {duration_s:.0f} s with seed {chosen_seed}")
    broken = judged(states, chosen_seed) + soak(duration_s, chosen_seed)
    print("\n".join(broken) or "fine")
    sys.exit(bool(broken))
