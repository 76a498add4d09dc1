# SPDX-License-Identifier: MPL-2.0
"""Starts, stops, kills and freezes plugin, agent and MPS daemons in random order, beside five tasks.

First a whole node (`soak_node.py`), then the installed plugin alone, spoken to as Nomad would, beside
tasks that are real processes in real cgroups. The tasks must live; fifty processes of another user, who
claim all that there is, run beside them. After each round the truth is checked. Prints one table of
promise, tries and held; the exit status is 1 when one is broken. Needs root.
`python -m scripts.soak_rounds [rounds] [seconds] [seed]`; 200, an hour for the node at most, and a
random seed by default.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import this_run
from contract.hostile import crowd
from contract.task_cgroups import RealTask, real_task
from libnvidia_ml.driver import FakeDriver, build

from nomad_nvidia_vgpu.cookie import COOKIE_KEY, COOKIE_VALUE, PROTOCOL_VERSION
from nomad_nvidia_vgpu.goplugin.handshake import Handshake, HandshakeError
from nomad_nvidia_vgpu.rpc.client import Host, Refused
from scripts.soak_node import soak_node
from scripts.soak_table import Table

GPUS = [f"GPU-{letter}" for letter in "abcdefgh"]
VGPUS = 16
TASKS = 5
HOSTILE = 50
MOST_MIB = 64
PROGRAM = Path(sys.executable).with_name("nvidia-vgpu")
CONFIG = {
    "vgpus": VGPUS,
    "fingerprint_period": "500ms",
    "memory_guard": {"action": "kill", "grace": "0s", "tolerance_percent": 0},
    "health": {"end_tasks": True},
}
ENDS = ("Shutdown", "SIGTERM", "SIGKILL", "SIGSTOP")


def started_tasks(stack: ExitStack, node: FakeDriver) -> list[RealTask]:
    """Five tasks that have a vGPU of the first GPU each, and use it."""
    tasks = [stack.enter_context(real_task("v2")) for _ in range(TASKS)]
    listed = []
    for number, task in enumerate(tasks):
        claim = {"NVIDIA_VGPU_IDS": f"{GPUS[0]}-{number}", "NOMAD_ALLOC_ID": task.allocation}
        listed.append(f"{task.start(claim).pid}:100")
    node.set("gpu 0", "compute_processes", " ".join(listed))
    return tasks


def one_round(host: Host, how: str, table: Table) -> None:
    """Serves for a moment, then ends in this way."""
    host.set_config(CONFIG)
    stream = host.fingerprints()
    groups = stream.next_within(60.0)
    healthy = sum(instance.healthy for group in groups for instance in group.instances)
    table.check("every vGPU is offered, whatever strangers claim", healthy == len(GPUS) * VGPUS)
    try:
        envs = host.reserve([f"{GPUS[7]}-3"]).envs
        table.check("a reservation is right", envs["NVIDIA_VGPU_IDS"] == f"{GPUS[7]}-3")
    except Refused:
        table.check("a reservation is right", held=False)
    next(host.stats(0.1))
    process = host.plugin.process
    size = psutil.Process(process.pid).memory_info().rss >> 20
    table.check(f"the plugin is no larger than {MOST_MIB} MiB", size <= MOST_MIB)
    if how == "SIGSTOP":
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)  # the fault itself: for this long nobody answers
        process.send_signal(signal.SIGCONT)
        table.check("it answers again after SIGSTOP", host.info().name == "nvidia-vgpu")
        how = "Shutdown"
    if how == "Shutdown":
        table.check("Shutdown ends it by itself", not host.stop().killed)
    else:
        process.send_signal(signal.Signals[how])
        status = process.wait(60)
        table.check(f"{how} ends it", status == (0 if how == "SIGTERM" else -signal.SIGKILL))


def soak(rounds: int, seed: int, table: Table) -> None:
    """Counts what so many rounds find."""
    dice = random.Random(seed)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        node = FakeDriver(build(place / "lib"), place, "h100x8")
        for number, uuid in enumerate(GPUS):
            node.set(f"gpu {number}", "uuid", uuid)
        environment = {**os.environ, **node.environment()}
        environment.pop("FAKE_NVML_CALLS", None)
        tasks = started_tasks(stack, node)
        stack.enter_context(crowd(HOSTILE, GPUS))
        for number in range(rounds):
            handshake = Handshake(COOKIE_KEY, COOKIE_VALUE, PROTOCOL_VERSION)
            how = dice.choice(ENDS)
            try:
                with Host([str(PROGRAM)], handshake, environment=environment) as host:
                    table.check("it starts", held=True)
                    one_round(host, how, table)
            except HandshakeError:
                table.check("it starts", held=False)
            alive = [task.processes[0].poll() is None for task in tasks]
            table.check("the five tasks live", all(alive))
            if sys.stdout.isatty():
                with suppress(OSError):
                    print(f"\r{number + 1} of {rounds}", end="", flush=True)


if __name__ == "__main__":
    how_many = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 3600.0
    chosen_seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(10**6)
    print(f"{how_many} rounds with seed {chosen_seed}")
    found = Table()
    with tempfile.TemporaryDirectory() as folder, this_run.kept([Path(folder)]):
        done = soak_node(how_many, seconds, chosen_seed, found)
        soak(how_many, chosen_seed, found)
    print(f"{done} rounds of the node, {how_many} of the plugin alone")
    print(found.text())
    sys.exit(found.broken)
