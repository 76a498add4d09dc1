# SPDX-License-Identifier: MPL-2.0
"""What a control daemon knows, and the language in which it is asked (GSF b3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .limits import read_percentage, read_size, write_size
from .state import State

INITIALIZING, ACTIVE, FAULT = "INITIALIZING", "ACTIVE", "FAULT"

Words = Sequence[str]


@dataclass
class Client:
    """A process on a server."""

    pid: int
    uid: int
    name: str
    wanted: str | None
    """Its CUDA_VISIBLE_DEVICES."""
    terminate: Callable[[], None]
    devices: list[str] = field(default_factory=list)


@dataclass
class Server:
    """One MPS server; its limits are the defaults of the moment at which it was started."""

    pid: int
    uid: int
    percentage: float
    limits: dict[str, int]
    status: str = INITIALIZING
    clients: dict[int, Client] = field(default_factory=dict)
    faulted: set[int] = field(default_factory=set)


@dataclass
class Mps:
    """The defaults and the servers of one daemon."""

    state: State
    devices: list[str]
    percentage: float = 100.0
    priority: str = "0"
    limits: dict[str, int] = field(default_factory=dict)
    servers: dict[int, Server] = field(default_factory=dict)

    def key(self, device: str) -> str:
        """The device behind an ordinal or UUID; what means nothing is a key of its own."""
        if device.isdecimal() and int(device) < len(self.devices):
            return self.devices[int(device)]
        if device in self.devices and not self.state.setting("uuid_keys", True):
            return f"ignored {device}"
        return device


class Language:
    """Answers commands; what is wrong in one is passed over in silence, as the real tool does."""

    def __init__(self, mps: Mps, start_server: Callable[[int], None]) -> None:
        """`start_server` takes a uid."""
        self._mps = mps
        self._start_server = start_server
        self._commands: dict[str, Callable[[Words], str]] = {
            "get_server_list": self._server_list,
            "get_server_status": self._server_status,
            "start_server": self._start,
            "get_client_list": self._client_list,
            "get_device_client_list": self._device_client_list,
            "ps": self._ps,
            "device_query": self._device_query,
            "terminate_client": self._terminate_client,
            "set_default_active_thread_percentage": self._set_default_percentage,
            "get_default_active_thread_percentage": self._get_default_percentage,
            "set_active_thread_percentage": self._set_percentage,
            "get_active_thread_percentage": self._get_percentage,
            "set_default_device_pinned_mem_limit": self._set_default_limit,
            "get_default_device_pinned_mem_limit": self._get_default_limit,
            "set_device_pinned_mem_limit": self._set_limit,
            "get_device_pinned_mem_limit": self._get_limit,
            "set_default_client_priority": self._set_priority,
            "get_default_client_priority": lambda _: self._mps.priority,
            "help": lambda _: "\n".join(sorted(self._commands)),
        }

    def answer(self, line: str) -> str:
        """The reply to one line; empty where there is nothing to say."""
        command, *words = line.split()
        known = self._commands.get(command)
        return f"Unknown command: {command}" if known is None else known(words)

    def _server(self, words: Words) -> Server | None:
        pid = words[0] if words else ""
        return self._mps.servers.get(int(pid)) if pid.isdecimal() else None

    def _server_list(self, _: Words) -> str:
        return "\n".join(map(str, self._mps.servers))

    def _server_status(self, words: Words) -> str:
        server = self._server(words)
        return server.status if server else _no_server(words)

    def _start(self, words: Words) -> str:
        if len(words) > 1 and words[0] == "-uid" and words[1].isdecimal():
            self._start_server(int(words[1]))
        return ""

    def _client_list(self, words: Words) -> str:
        server = self._server(words)
        return "\n".join(map(str, server.clients)) if server else _no_server(words)

    def _device_client_list(self, words: Words) -> str:
        servers = [server] if (server := self._server(words)) else self._mps.servers.values()
        lines = []
        for device in self._mps.devices:
            pids = [c.pid for s in servers for c in s.clients.values() if device in c.devices]
            lines += [device, *map(str, pids)] if pids else []
        return "\n".join(lines)

    def _ps(self, _: Words) -> str:
        rows = ["PID       ID    SERVER    DEVICE             NAMESPACE      COMMAND"]
        for server in self._mps.servers.values():
            for number, client in enumerate(server.clients.values()):
                device = client.devices[0][:22]
                rows.append(
                    f"{client.pid:<9} {number:<5} {server.pid:<9} {device:<22} "
                    f"4026531836     {client.name}"
                )
        return "\n".join(rows)

    def _device_query(self, _: Words) -> str:
        rows = [f"{number:<8}{device}" for number, device in enumerate(self._mps.devices)]
        return "\n".join(["Device  UUID", *rows])

    def _terminate_client(self, words: Words) -> str:
        server = self._server(words)
        pid = int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0
        client = server.clients.get(pid) if server else None
        if client is None:
            return f"Client {pid} not found"
        client.terminate()
        return ""

    def _set_default_percentage(self, words: Words) -> str:
        value = read_percentage(words[0]) if words else None
        if value is None:
            return ""
        self._mps.percentage = value
        return self._echo(self._get_default_percentage(()))

    def _get_default_percentage(self, _: Words) -> str:
        return f"{self._mps.percentage:.1f}"

    def _set_percentage(self, words: Words) -> str:
        server = self._server(words)
        value = read_percentage(words[1]) if len(words) > 1 else None
        if server is None or value is None:
            return ""
        server.percentage = value
        return self._echo(self._get_percentage(words))

    def _get_percentage(self, words: Words) -> str:
        server = self._server(words)
        return f"{server.percentage:.1f}" if server else _no_server(words)

    def _set_default_limit(self, words: Words) -> str:
        size = read_size(words[1]) if len(words) > 1 else None
        if size is None:
            return ""
        self._mps.limits[self._mps.key(words[0])] = size
        return self._echo(self._get_default_limit(words))

    def _get_default_limit(self, words: Words) -> str:
        return self._limit(self._mps.limits, words[0] if words else "0")

    def _set_limit(self, words: Words) -> str:
        server = self._server(words)
        size = read_size(words[2]) if len(words) > 2 else None
        if server is None or size is None:
            return ""
        server.limits[self._mps.key(words[1])] = size
        return self._echo(self._get_limit(words))

    def _get_limit(self, words: Words) -> str:
        server = self._server(words)
        if server is None:
            return _no_server(words)
        return self._limit(server.limits, words[1] if len(words) > 1 else "0")

    def _set_priority(self, words: Words) -> str:
        if words and words[0] in ("0", "1"):
            self._mps.priority = words[0]
        return ""

    def _limit(self, limits: dict[str, int], device: str) -> str:
        size = limits.get(self._mps.key(device))
        if size is None:
            return "0"
        form = self._mps.state.setting("limit_form", "exact")
        padding: str = self._mps.state.setting("padding", "")
        return write_size(size, form) + padding

    def _echo(self, text: str) -> str:
        return text if self._mps.state.setting("echo", False) else ""


def _no_server(words: Words) -> str:
    return f"Server {words[0] if words else ''} not found"
