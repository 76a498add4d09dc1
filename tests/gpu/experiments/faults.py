# SPDX-License-Identifier: MPL-2.0
"""What the other tasks of a GPU live through: killed clients, faults, killed daemons and plugins."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pynvml

from gpu.clients import Client, Refused, Silent
from gpu.control_tool import Daemon
from gpu.lab import READY_S, Lab
from gpu.plugin_node import Plugin, health
from nomad_nvidia_vgpu.sharing.mps.layout import PROGRAM

_VGPUS = 4
_POLL_S = 0.3
_LONG_S = 20.0
_REPAIR_S = 20.0
_NO_ERROR = "no error"
_FAULT_WATCH_S = 3.0
_SILENCE_S = 12.0
"""Longer than any kernel that is waited for."""


def opens_after(lab: Lab, environment: dict[str, str], within_s: float) -> str:
    """When a new client can open the GPU, or what refuses it until then."""
    began = time.monotonic()
    refusals: list[str] = []
    while time.monotonic() - began < within_s:
        try:
            lab.opens(environment, within_s)
        except (Refused, Silent) as error:
            if str(error) not in refusals:
                refusals.append(str(error))
            time.sleep(_POLL_S)
            continue
        before = f" (before: {'; '.join(refusals)})" if refusals else ""
        return f"works after {time.monotonic() - began:.1f} s{before}"
    return f"does not work within {within_s:g} s: {'; '.join(refusals)}"


def _fate(client: Client, seconds: float) -> str:
    """Whether a client that saturates makes progress for so long from now on."""
    began = time.monotonic()
    longest_s = 0.0
    try:
        while True:
            said = client.until("progress", seconds + _SILENCE_S)
            if said["at_s"] < began:
                continue  # said before, and not read until now
            longest_s = max(longest_s, said["longest_s"])
            if said["at_s"] >= began + seconds:
                return f"it goes on, its longest kernel took {longest_s:.2f} s"
    except (Refused, Silent) as error:
        return f"it ended: {error}"


def killed_client(lab: Lab) -> None:
    """A client that is killed in the middle of a kernel."""
    question = "A client is killed mid-kernel (SIGKILL): what of its neighbour, and of newcomers?"
    with lab.part(question):
        daemon = lab.daemon()
        neighbour = lab.client(daemon.client(), "saturate", "--seconds", _LONG_S)
        neighbour.until("progress", READY_S)
        victim = lab.client(daemon.client(), "mid-kernel", "--seconds", 4)
        victim.until("launched", READY_S)
        time.sleep(0.5)
        victim.kill()
        fate = _fate(neighbour, 2.0)
        status = daemon.status()
        newcomer = opens_after(lab, daemon.client(), READY_S / 2)
        lab.answer(question, f"neighbour: {fate}; server: {status}; a newcomer {newcomer}")
        neighbour.kill()


def fault(lab: Lab) -> None:
    """Question 6: a client that writes where nothing is, and the way back."""
    question = "FAULT: who is hit, and how long does it last?"
    with lab.part(question, g=6):
        daemon = lab.daemon()
        asked = lab.client(daemon.client(), "hold")
        asked.until("holding", READY_S)
        asked.tell("go")
        asked.until("ran", READY_S)
        idle = lab.client(daemon.client(), "hold")
        idle.until("holding", READY_S)
        (server,) = daemon.servers()
        seen = [f"the culprit: {_end(lab.client(daemon.client(), 'trespass'))}"]
        seen += [f"status: {_timeline(daemon)}"]
        seen += [f"a newcomer: {_end(lab.client(daemon.client(), 'info'), 'ready')}"]
        asked.tell("go")
        seen += [f"a neighbour that goes on: {_end(asked, 'ran')}"]
        asked.kill()
        seen += [f"with an idle neighbour left: {_timeline(daemon)}"]
        said = daemon.tell(f"terminate_client {server.pid} {idle.pid}")
        newcomer = opens_after(lab, daemon.client(), READY_S / 4)
        seen += [f"terminate_client for it: {said}; then a newcomer {newcomer}"]
        idle.tell("go")
        seen += [f"the idle neighbour: {_end(idle, 'ran')}"]
        idle.kill()
        newcomer = opens_after(lab, daemon.client(), READY_S / 4)
        seen += [f"all have left: a newcomer {newcomer}, status {daemon.status()}"]
        lab.answer(question, "; ".join(seen), g=6)
        for log in ("control.log", "server.log"):
            with contextlib.suppress(OSError):
                lab.log(f"{log}: {(daemon.logs / log).read_text(errors='replace')[-4000:]}")


def fault_and_plugin(lab: Lab) -> None:
    """Whether the plugin sees a fault, says so, and fixes it once the tasks have left."""
    question = "The plugin after a task's fault: says so, refuses, fixes it when the tasks left"
    with lab.part(question, g=6):
        plugin = lab.plugin(_VGPUS, lab.root())
        environment = plugin.task(1)
        neighbour = lab.client(environment, "hold")
        neighbour.until("holding", READY_S)
        culprit = _end(lab.client(environment, "trespass"))
        text = _complaint(plugin)
        neighbour.kill()
        began = time.monotonic()
        plugin.until_healthy(_REPAIR_S)
        healthy_s = time.monotonic() - began
        newcomer = opens_after(lab, plugin.task(1), READY_S / 2)
        lab.answer(
            question,
            f"culprit: {culprit}; health: {text or 'nothing within 10 s'}; healthy"
            f" {healthy_s:.1f} s after the last client left; a newcomer {newcomer}",
            promised=newcomer.startswith("works"),
            g=6,
        )


def plugin_killed(lab: Lab) -> None:
    """SIGKILL of the plugin: the daemon is adopted, the tasks stay, the limits hold."""
    question = "SIGKILL of the plugin: the task goes on, the next plugin adopts the daemon"
    with lab.part(question):
        root = lab.root()
        first = lab.plugin(_VGPUS, root)
        environment = first.task(1)
        task = lab.client(environment, "saturate", "--seconds", 2 * _LONG_S)
        task.until("progress", READY_S)
        before = _daemon_pid(root)
        first.kill()
        alone = _fate(task, 1.0)
        second = lab.plugin(_VGPUS, root)
        after = _daemon_pid(root)
        fate = _fate(task, 1.0)
        same = second.task(1) == environment
        got = lab.run(environment, "allocate", within_s=READY_S)
        limit_mib = int(environment["NVIDIA_VGPU_MEMORY_MIB"])
        holds = got["got_mib"] <= limit_mib and got["stopped_by"] is not None
        lab.answer(
            question,
            f"daemon {before} before, {after} after; without a plugin: {alone}; with the next:"
            f" {fate}; its task gets the same environment: {same}; limit {limit_mib} MiB, a"
            f" process got {got['got_mib']}",
            promised=before == after and "goes on" in alone and "goes on" in fate and holds,
        )
        task.kill()


def daemon_killed(lab: Lab) -> None:
    """SIGKILL of the daemon: what the plugin says, and when all is well again."""
    question = "SIGKILL of the MPS daemon: what of the task, and what does the plugin do?"
    with lab.part(question):
        root = lab.root()
        plugin = lab.plugin(_VGPUS, root)
        task = lab.client(plugin.task(1), "saturate", "--seconds", 2 * _LONG_S)
        task.until("progress", READY_S)
        os.kill(_daemon_pid(root), signal.SIGKILL)
        fate = _fate(task, 2.0)
        text = _complaint(plugin)
        task.kill()
        began = time.monotonic()
        try:
            plugin.until_healthy(_REPAIR_S)
            seen = f"healthy {time.monotonic() - began:.1f} s after the task had ended"
            works = opens_after(lab, plugin.task(1), READY_S / 2)
        except TimeoutError as error:
            seen, works = str(error), "not tried"
        lab.answer(
            question,
            f"task: {fate}; health: {text or 'nothing within 10 s'}; {seen}; a newcomer {works}",
            promised=works.startswith("works"),
        )


def exclusive_process(lab: Lab) -> None:
    """Question 3 and the journal: only where the compute mode is ours to set."""
    question = "EXCLUSIVE_PROCESS stops a client with a wrong pipe directory: with which error?"
    if not lab.setup.may_set_compute_mode:
        text = "not tried: the compute mode of this machine is not ours to set"
        lab.answer(question, text, g=3)
        lab.answer("Restore of the compute mode after SIGKILL of the plugin", text)
        return
    root = lab.root()
    before = _compute_mode(lab)
    with lab.part(question, g=3):
        plugin = lab.plugin(_VGPUS, root, exclusive_process=True)
        isolation = plugin.until_healthy().attributes["memory_isolation"].value
        idle = _end(lab.client(lab.plain(), "info"), "ready")
        holder = lab.client(plugin.task(1), "hold")
        holder.until("holding", READY_S)
        busy = _end(lab.client(lab.plain(), "info"), "ready")
        holder.kill()
        lab.answer(
            question,
            f"memory_isolation {isolation}; before any MPS client: {idle}; while an MPS client"
            f" runs: {busy}",
            promised=isolation == "mps" and busy != _NO_ERROR,
            g=3,
        )
        plugin.kill()
    question = "Restore of the compute mode after SIGKILL of the plugin"
    with lab.part(question):
        killed = _compute_mode(lab)
        journal = (root / "compute-modes.json").read_text()
        lab.plugin(_VGPUS, root)  # without exclusive_process
        after = _compute_mode(lab)
        lab.answer(
            question,
            f"mode {before} before, {killed} when it had been killed, {after} after the next start;"
            f" the journal said {journal}",
            promised=before == after != killed,
        )


def _compute_mode(lab: Lab) -> int:
    """As NVML says: 0 is DEFAULT, 3 EXCLUSIVE_PROCESS."""
    pynvml.nvmlInit()
    return int(pynvml.nvmlDeviceGetComputeMode(pynvml.nvmlDeviceGetHandleByUUID(lab.setup.uuid)))


def _complaint(plugin: Plugin) -> str:
    """What is wrong with the GPU once the plugin says so; empty if it does not in 10 s."""
    try:
        return health(plugin.until(lambda group: bool(health(group)), 10.0))
    except TimeoutError:
        return ""


def _end(client: Client, wanted: str = "result") -> str:
    """How a short client fared."""
    try:
        client.until(wanted, READY_S / 4)
    except (Refused, Silent) as error:
        return str(error)
    return _NO_ERROR


def _timeline(daemon: Daemon) -> str:
    changes = daemon.statuses(_FAULT_WATCH_S)
    return ", ".join(f"{status} from {after_s} s" for after_s, status in changes)


def _daemon_pid(root: Path) -> int:
    (path,) = root.glob(f"*/pipe/{PROGRAM}.pid")
    return int(path.read_text())
