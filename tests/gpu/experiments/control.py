# SPDX-License-Identifier: MPL-2.0
"""The language of the control tool, and which of its features this driver has."""

from __future__ import annotations

import time
from collections.abc import Iterable

from gpu.control_tool import Daemon, Said, tool
from gpu.lab import READY_S, Lab
from nomad_nvidia_vgpu.sharing.mps.layout import MEMORY_ENV
from nomad_nvidia_vgpu.sharing.mps.limits import Limits
from nomad_nvidia_vgpu.sharing.mps.reading import corrections, unsettled

_ENOUGH_MIB = 4096
_LIMIT_MIB = 2048
_SERVER_START_S = 3.0
_WITHOUT_SERVER = (
    "get_server_list",
    "get_default_active_thread_percentage",
    "get_default_device_pinned_mem_limit 0",
    "set_default_device_pinned_mem_limit 0 1537M",
    "get_default_device_pinned_mem_limit 0",
    "set_default_device_pinned_mem_limit 0 nonsense",
    "get_default_device_pinned_mem_limit 0",
    "set_default_device_pinned_mem_limit 7 1G",
    "get_default_device_pinned_mem_limit 7",
    "set_default_active_thread_percentage 33",
    "get_default_active_thread_percentage",
    "set_default_active_thread_percentage 12.5",
    "get_default_active_thread_percentage",
    "set_default_active_thread_percentage 0",
    "get_default_active_thread_percentage",
    "set_default_active_thread_percentage 101",
    "get_default_active_thread_percentage",
    "get_default_client_priority",
    "set_default_client_priority 1",
    "get_default_client_priority",
    "get_server_status 1",
    "get_client_list 1",
    "get_active_thread_percentage 1",
    "no_such_command",
    "ps",
    "device_query",
    "lspart",
)
_WITH_SERVER = (
    "get_server_list",
    "get_server_status {server}",
    "get_client_list {server}",
    "get_active_thread_percentage {server}",
    "get_device_pinned_mem_limit {server} 0",
    "set_device_pinned_mem_limit {server} 0 1024M",
    "get_device_pinned_mem_limit {server} 0",
    "get_device_client_list",
    "get_device_client_list {server}",
    "ps",
    "device_query",
    "start_server -uid 0",
    "get_client_list 1",
)


def language(lab: Lab) -> None:
    """What the tool says, word for word: what the plugin and its fake were written against."""
    words: list[tuple[str, Said]] = []
    with lab.part("The control tool"):
        daemon = Daemon(lab.root().parent, lab.setup.uuid, lab.log)
        words += [("(no daemon) get_server_list", daemon.tell("get_server_list"))]
        words += [("-d", daemon.tell(arguments=("-d",)))]
        words += [("-d (a second time)", daemon.tell(arguments=("-d",)))]
        words += _told(daemon, _WITHOUT_SERVER)
        with lab.part("A server without a client"):
            words += _told(daemon, ["start_server -uid 0"])
            time.sleep(_SERVER_START_S)
            words += [
                (f"get_server_list, {_SERVER_START_S:g} s later", daemon.tell("get_server_list"))
            ]
        with lab.part("The tool with a server"):
            client = lab.client(daemon.client(), "hold")
            client.until("holding", READY_S)
            (server,) = daemon.servers()
            words += _told(daemon, (w.format(server=server.pid) for w in _WITH_SERVER))
            lab.answer(
                "The plugin reads the server's clients as they are",
                f"client {client.pid}, read {server.clients}, status {server.status!r}",
                promised=server.clients == (client.pid,) and server.status == "ACTIVE",
            )
            client.kill()
        with lab.part("The plugin's settle"):
            limits, control = Limits(1537, 33, 1), daemon.control()
            control.tell(*corrections(control.read(), limits))
            left = unsettled(control.read(), limits)
            lab.answer(
                "Limits that the plugin sets read back as set",
                "; ".join(map(str, left)) or "yes: 1537 MiB, 33 % and priority 1",
                promised=not left,
            )
        words += [("quit", daemon.tell("quit"))]
        began = time.monotonic()
        while daemon.tell("get_server_list").status == 0 and time.monotonic() - began < READY_S:
            time.sleep(0.1)
        lab.log(f"the daemon was gone {time.monotonic() - began:.2f} s after quit")
        words += [("(after quit) get_server_list", daemon.tell("get_server_list"))]
    rows = [(command, said, f"{said.seconds:.2f}") for command, said in words]
    lab.table("The control tool, word for word", ("command", "answer", "seconds"), rows)


def _told(daemon: Daemon, commands: Iterable[str]) -> list[tuple[str, Said]]:
    return [(command, daemon.tell(command)) for command in commands]


def default_limit_keys(lab: Lab) -> None:
    """Question 1."""
    for name, key in (("ordinal", "0"), ("UUID", lab.setup.uuid)):
        question = f"set_default_device_pinned_mem_limit by {name}: accepted, echoed, enforced?"
        with lab.part(question, g=1):
            daemon = lab.daemon()
            said = daemon.tell(f"set_default_device_pinned_mem_limit {key} {_LIMIT_MIB}M")
            echoes = [
                f"get by {n}: {daemon.tell(f'get_default_device_pinned_mem_limit {k}')}"
                for n, k in (("ordinal", "0"), ("UUID", lab.setup.uuid))
            ]
            words = ("allocate", "--step-mib", 512, "--most-mib", _ENOUGH_MIB)
            got = lab.run(daemon.client(), *words, within_s=READY_S)
            lab.answer(
                question,
                f"set: {said}; {'; '.join(echoes)}; a client got {got['got_mib']} MiB of"
                f" {_ENOUGH_MIB} under {_LIMIT_MIB}",
                promised=got["got_mib"] <= _LIMIT_MIB if key == "0" else None,
                g=1,
            )
            daemon.stop()


def client_limit_keys(lab: Lab) -> None:
    """Question 2."""
    uuid, stranger = lab.setup.uuid, "GPU-00000000-0000-0000-0000-000000000000"
    alone, beside, only = "0=2048M", "0=2048M,1=2048M", "1=2048M"
    variants = (
        alone,
        beside,
        only,
        "0=2G",
        f"{uuid}=2048M",
        f"{uuid}=2048M,{stranger}=2048M",
        f"{stranger}=2048M",
    )
    rows: list[tuple[object, str, str]] = []
    for server_mib in (None, _LIMIT_MIB + 1024):
        question = f"Clients' limits under a server default of {server_mib or 'no'} MiB"
        with lab.part(question, g=2):
            daemon = lab.daemon()
            if server_mib:
                daemon.tell(f"set_default_device_pinned_mem_limit 0 {server_mib}M")
            for variant in variants:
                words = ("allocate", "--step-mib", 512, "--most-mib", _ENOUGH_MIB)
                try:
                    environment = daemon.client(**{MEMORY_ENV: variant})
                    got = lab.run(environment, *words, within_s=READY_S)
                    seen = f"{got['got_mib']} MiB"
                except Exception as error:  # noqa: BLE001  the refusal is what is to be seen
                    seen = str(error)
                rows.append((server_mib or "none", variant, seen))
            daemon.stop()
    title = f"Question 2: of {_ENOUGH_MIB} MiB asked for, a client gets"
    lab.table(title, ("server's default, MiB", "client's limit", "got"), rows)
    by_keys = {(str(server), keys): seen for server, keys, seen in rows}
    shown = [
        f"under {server}: {keys} {by_keys.get((server, keys), 'not tried')}"
        for server in ("none", str(_LIMIT_MIB + 1024))
        for keys in (alone, beside, only)
    ]
    lab.answer("Does an entry for an invisible GPU drop every limit?", "; ".join(shown), g=2)


def features(lab: Lab) -> None:
    """Question 7: which modes of MPS there are; each daemon serves no task and ends at once."""
    tries: tuple[tuple[str, tuple[str, ...], dict[str, str], str], ...] = (
        ("multi-user", ("-multiuser-server",), {}, "get_server_list"),
        ("multi-user, short", ("-M",), {}, "get_server_list"),
        ("static SM partitions", ("-S",), {}, "lspart"),
        ("v3 by option", ("-p", "3"), {}, "get_server_list"),
        ("v3 by variable", (), {"CUDA_MPS_PROTOCOL_VERSION": "3"}, "get_server_list"),
        ("memory locality partitions", ("-mlopart",), {}, "get_server_list"),
    )
    for name, flags, variables, command in tries:
        question = f"Has this driver {name} ({' '.join(flags) or ' '.join(variables)})?"
        with lab.part(question, g=7):
            daemon = Daemon(lab.root().parent, lab.setup.uuid, lab.log)
            environment = {**daemon.environment, **variables}
            started = tool(environment, ("-d", *flags))
            answer = tool(environment, given=command)
            tool(environment, given="quit")
            lab.log(f"{name}: {started} | {answer}")
            lab.answer(question, f"start: {started}; {command}: {answer}", g=7)
    for words in (("-h",), ("-v",)):
        with lab.part(f"nvidia-cuda-mps-control {words[0]}"):
            daemon = Daemon(lab.root().parent, lab.setup.uuid, lab.log)
            lab.log(str(tool(daemon.environment, words)))
            tool(daemon.environment, given="quit")
