# SPDX-License-Identifier: MPL-2.0
"""Tasks of several users, in namespaces, without a daemon, and as NVML sees them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pynvml

from gpu.clients import Client, Refused, Silent
from gpu.lab import READY_S, Lab
from nomad_nvidia_vgpu.gpu.model import Gpu
from nomad_nvidia_vgpu.sharing.mps.layout import MEMORY_ENV
from nomad_nvidia_vgpu.sharing.mps.strategy import max_clients

_ONE_UID, _OTHER_UID = 65531, 65532
_PATIENCE_S = 8.0
_MOST_CLIENTS = 64
_BATCH = 8
_NEW_SHM = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
_NAMESPACES = {
    "its own /dev/shm": ("-m",),
    "its own /dev/shm and IPC namespace": ("-m", "-i"),
    "its own /dev/shm, IPC and pid namespaces": ("-m", "-i", "-p", "-f", "--kill-child"),
}


def two_users(lab: Lab) -> None:
    """Two uids at once, with multi-user mode and without."""
    question = "Tasks of two users at once (multi_user = true): do both run?"
    with lab.part(question, g=7):
        root = lab.root()
        plugin = lab.plugin(4, root)
        environment = plugin.task(2)
        words = ("saturate", "--wait", "--seconds", 2)
        clients = [lab.client(environment, "--uid", uid, *words) for uid in (_ONE_UID, _OTHER_UID)]
        for client in clients:
            client.until("waiting", READY_S)
        for client in clients:
            client.tell("go")
        rates = [client.result(READY_S)["tera_fma_per_s"] for client in clients]
        records = [path.read_text() for path in root.glob("*/daemon.json")]
        lab.answer(
            question,
            f"yes: {rates[0]} and {rates[1]} tera FMA/s; daemon.json: {'; '.join(records)}",
            promised=True,
            g=7,
        )
        plugin.stop()
    question = "Tasks of two users at once, without multi-user mode"
    with lab.part(question):
        daemon = lab.daemon()
        first = lab.client(daemon.client(), "--uid", _ONE_UID, "hold")
        first.until("holding", READY_S)
        second = lab.client(daemon.client(), "--uid", _OTHER_UID, "info")
        seen = _opened(second, _PATIENCE_S)
        first.kill()
        after = _opened(second, READY_S / 2)
        lab.answer(
            question,
            f"while the first runs, the second {seen}; once the first has ended, it {after}",
        )


def _opened(client: Client, within_s: float) -> str:
    """Whether a client opens the GPU, or has done so before; if not, why."""
    try:
        if not any(event["event"] == "ready" for event in client.events):
            client.until("ready", within_s)
    except (Refused, Silent) as error:
        return f"does not run: {error}"
    return "runs"


def namespaces(lab: Lab) -> None:
    """Question 5."""
    with lab.part("A daemon", g=5):
        daemon = lab.daemon()
        for name, flags in _NAMESPACES.items():
            question = f"A client with {name}: does it work?"
            with lab.part(question, g=5):
                through = ("unshare", *flags, "sh", "-c", _NEW_SHM, "sh")
                client = lab.client(daemon.client(), "saturate", "--seconds", 0.3, through=through)
                try:
                    got = client.result(READY_S)
                    seen = f"yes, {got['launches']} kernels"
                except (Refused, Silent) as error:
                    seen = f"no: {error}"
                lab.answer(question, f"{seen}; server {daemon.status()}", g=5)
                client.kill()


def without_daemon(lab: Lab) -> None:
    """The half of question 3 that changes no setting."""
    question = "A client whose pipe directory is wrong, in the compute mode that is set"
    with lab.part(question, g=3):
        environment = {**lab.plain(), MEMORY_ENV: "0=1024M"}
        words = ("allocate", "--step-mib", 512, "--most-mib", 4096)
        try:
            got = lab.run(environment, *words, within_s=READY_S)
            held = "unlimited" if got["got_mib"] > 1024 else "limited"
            seen = f"runs without MPS, {held}: got {got['got_mib']} MiB of 4096 under 1024"
        except Refused as error:
            seen = f"refused: {error}"
        mode = lab.opens(lab.plain())["compute_mode"]
        lab.answer(question, f"(mode {mode}, 0 is DEFAULT) {seen}", g=3)


def meters(lab: Lab) -> None:
    """Question 4."""
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(lab.setup.uuid)
    words = ("saturate", "--seconds", 4)
    with lab.part("NVML without MPS", g=4):
        clients = {"plain client": lab.client(lab.plain(), *words)}
        _measure(lab, handle, "one client without MPS", clients)
    with lab.part("NVML with MPS", g=4):
        daemon = lab.daemon()
        clients = {f"MPS client {n}": lab.client(daemon.client(), *words) for n in (1, 2)}
        _measure(lab, handle, "two MPS clients", clients, lambda: daemon.servers()[0].pid)


def _measure(
    lab: Lab,
    handle: Any,
    what: str,
    clients: dict[str, Client],
    server: Callable[[], int] | None = None,
) -> None:
    for client in clients.values():
        client.until("progress", READY_S)
    time.sleep(1.5)  # NVML's utilisation is of the last second or so
    names = {client.pid: name for name, client in clients.items()}
    if server is not None:
        names[server()] = "MPS server"
    calls: Sequence[tuple[str, tuple[object, ...]]] = (
        ("nvmlDeviceGetComputeRunningProcesses", ()),
        ("nvmlDeviceGetMPSComputeRunningProcesses", ()),
        ("nvmlDeviceGetGraphicsRunningProcesses", ()),
        ("nvmlDeviceGetProcessUtilization", (0,)),
    )
    rows, lists = [], []
    for name, arguments in calls:
        try:
            found = getattr(pynvml, name)(handle, *arguments)
            seen = "; ".join(_entry(entry, names) for entry in found) or "an empty list"
            who = sorted({names.get(entry.pid, "another") for entry in found})
            lists.append(f"{name} lists {', '.join(who) or 'nothing'}")
        except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError, AttributeError) as error:
            seen = f"{type(error).__name__}: {error}"
        rows.append((name, seen))
    lab.table(f"Question 4: {what}", ("call", "answer"), rows)
    lab.answer(f"With {what}:", "; ".join(lists) or "every call is refused", g=4)
    for client in clients.values():
        client.kill()


def _entry(entry: Any, names: dict[int, str]) -> str:
    who = names.get(entry.pid, f"pid {entry.pid}")
    if hasattr(entry, "smUtil"):
        return f"{who}: SM {entry.smUtil} %, memory {entry.memUtil} %"
    used = entry.usedGpuMemory
    return f"{who}: {'unknown' if used is None else used >> 20} MiB"


def client_limit(lab: Lab) -> None:
    """How many processes one server takes."""
    question = "How many clients does one MPS server take?"
    with lab.part(question):
        daemon = lab.daemon()
        ready = lab.opens(lab.plain())
        cuda = ready["cuda"] // 1000 + ready["cuda"] % 1000 / 100
        expected = max_clients(Gpu(lab.setup.uuid, ready["gpu"], cuda_driver_version=cuda))
        held: list[Client] = []
        refusal = "none was refused"
        while len(held) < _MOST_CLIENTS and refusal == "none was refused":
            batch = [lab.client(daemon.client(), "hold", "--mib", 1) for _ in range(_BATCH)]
            for client in batch:
                try:
                    client.until("holding", READY_S)
                    held.append(client)
                except (Refused, Silent) as error:
                    refusal = str(error)
        lab.answer(
            question,
            f"{len(held)} ran at once, then: {refusal}; the plugin allows {expected} vGPUs",
            promised=len(held) >= expected,
        )
        for client in held:
            client.tell("end")
        for client in held:
            client.kill()
        lab.log(f"server log: {_tail(daemon.logs / 'server.log')}")


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-2000:] if path.exists() else "none"
