# SPDX-License-Identifier: MPL-2.0
"""What a control daemon knows, and the language in which it is asked.

How it answers without a server, and while a server is INITIALIZING, was seen with the real tools.
What servers that are ACTIVE or in FAULT answer, and all about clients, is taken from documents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .limits import read_ordinal, read_percentage, read_size, write_size
from .versions import Version

INITIALIZING, ACTIVE, FAULT = "INITIALIZING", "ACTIVE", "FAULT"

_MOST_DEVICES = 32
_ONLY_OWNER = (
    " Control deamon settings can only be modified by the user started it or by the root user."
)

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
    """One MPS server; its settings are the defaults of the moment at which it was started."""

    pid: int
    uid: int
    percentage: float
    limits: dict[int, int]
    status: str = INITIALIZING
    clients: dict[int, Client] = field(default_factory=dict)
    faulted: set[int] = field(default_factory=set)


@dataclass
class Mps:
    """The defaults and the servers of one daemon."""

    devices: list[str]
    percentage: float = 100.0
    priority: int = 0
    limits: dict[int, int] = field(default_factory=dict)
    """Bytes, by the device's number, whether or not there is such a device."""
    servers: dict[int, Server] = field(default_factory=dict)


class Language:
    """Answers commands."""

    def __init__(
        self,
        mps: Mps,
        version: Version,
        servers: tuple[Callable[[int], None], Callable[[Server], None]],
        log: Callable[[str], None],
    ) -> None:
        """`servers` are what starts one for a uid, and what ends one; `log` takes a line."""
        self._mps = mps
        self._version = version
        self._start_server, self._stop_server = servers
        self._log = log
        self._uid = self._owner = 0
        self._commands: dict[str, Callable[[Words], str]] = {
            "get_server_list": lambda _: _lines(self._mps.servers),
            "get_server_status": self._server_status,
            "start_server": self._start,
            "shutdown_server": self._shutdown,
            "get_client_list": self._client_list,
            "get_device_client_list": self._device_client_list,
            "ps": self._ps,
            "terminate_client": self._terminate_client,
            "set_default_active_thread_percentage": self._set_default_percentage,
            "get_default_active_thread_percentage": lambda _: self._percentage(),
            "set_active_thread_percentage": self._set_percentage,
            "get_active_thread_percentage": self._get_percentage,
            "set_default_device_pinned_mem_limit": self._set_default_limit,
            "get_default_device_pinned_mem_limit": self._get_default_limit,
            "set_device_pinned_mem_limit": self._set_limit,
            "get_device_pinned_mem_limit": self._get_limit,
            "set_default_client_priority": self._set_priority,
            "get_default_client_priority": lambda _: str(self._mps.priority),
        }
        if not version.server_status:
            del self._commands["get_server_status"]

    def answer(self, line: str, uid: int, owner: int) -> str:
        """The reply to one line of a user, empty where there is nothing to say.

        `owner` is the user of the daemon.
        """
        command, *words = line.split() or [""]
        self._uid, self._owner = uid, owner
        guarded = self._version.guarded and uid not in (0, owner)
        if guarded and command.startswith("set_default"):
            return self._refusal(_ONLY_OWNER)
        known = self._commands.get(command)
        return f'Unknown command "{command}"' if known is None else known(words)

    def _refusal(self, why: str) -> str:
        if not self._version.guarded:
            return f"Insufficient privileges for UID {self._uid}"
        return f"Insufficient privileges for UID {self._uid}.{why}"

    # ---- servers ----

    def _server(self, words: Words) -> Server | None:
        return self._mps.servers.get(_number(words))

    def _answering(self, words: Words) -> Server | str:
        """The server that a command names, or the answer where it cannot be asked."""
        server = self._server(words)
        if server is None:
            return f"Server {_number(words)} not found"
        if server.status == INITIALIZING:
            self._log(f"Server {server.pid} is <busy>")
            return ""
        return server

    def _server_status(self, words: Words) -> str:
        if not _number(words):
            return "A server PID is required"
        server = self._server(words)
        return server.status if server else f"Server {_number(words)} not found"

    def _start(self, words: Words) -> str:
        if len(words) < 2 or words[0] != "-uid" or not words[1].isdecimal():
            return "A user id (UID) is required to start a new server"
        if self._uid not in (0, int(words[1])):
            return self._refusal(" Only the root user may start server for another user.")
        self._start_server(int(words[1]))
        return ""

    def _shutdown(self, words: Words) -> str:
        server = self._server(words)
        if server is None:
            return f"Server {_number(words)} not found"
        if self._uid not in (0, server.uid):
            return self._refusal(" Only the root user may shutdown another user's server.")
        if "-f" in words:
            if self._version.forced:
                self._log(f"Force shutting down server {server.pid}")
            self._stop_server(server)
        return ""

    # ---- clients ----

    def _client_list(self, words: Words) -> str:
        server = self._server(words)
        return _lines(server.clients) if server else f"Server {_number(words)} not found"

    def _device_client_list(self, words: Words) -> str:
        servers = list(self._mps.servers.values())
        if words:
            server = self._answering(words)
            if isinstance(server, str):
                return server
            servers = [server]
        lines = []
        for device in self._mps.devices:
            pids = [c.pid for s in servers for c in s.clients.values() if device in c.devices]
            lines += [device, *map(str, pids)] if pids else []
        return "\n".join(lines)

    def _ps(self, words: Words) -> str:
        if len(words) > 1 and words[0] == "-p" and _number(words[1:]) not in self._mps.servers:
            return f"Server {_number(words[1:])} not found\n" * 2
        servers = [s for s in self._mps.servers.values() if s.status != INITIALIZING]
        if not servers:
            return "Server not found"
        status = " STATUS" if self._version.name == "550" else ""
        rows = [f"PID       ID    SERVER    DEVICE             NAMESPACE      COMMAND{status}"]
        for server in servers:
            for number, client in enumerate(server.clients.values()):
                device = client.devices[0][:22]
                rows.append(
                    f"{client.pid:<9} {number:<5} {server.pid:<9} {device:<22} "
                    f"4026531836     {client.name}"
                )
        return "\n".join(rows)

    def _terminate_client(self, words: Words) -> str:
        server = self._answering(words)
        client = None if isinstance(server, str) else server.clients.get(_number(words[1:]))
        if client is None:
            said = server if isinstance(server, str) and server else None
            return "\n".join(filter(None, [said, f"Server {_number(words)} not found!", "1"]))
        client.terminate()
        return ""

    # ---- settings ----

    def _percentage(self) -> str:
        return f"{self._mps.percentage:.1f}"

    def _set_default_percentage(self, words: Words) -> str:
        value = read_percentage(words[0]) if words else None
        if value is None:
            self._log("Invalid percentage, expected between (0.0, 100.0]")
        else:
            self._mps.percentage = value
        return self._percentage()

    def _set_percentage(self, words: Words) -> str:
        server = self._answering(words)
        if isinstance(server, str):
            return server
        server.percentage = read_percentage(words[1]) or server.percentage
        return f"{server.percentage:.1f}"

    def _get_percentage(self, words: Words) -> str:
        server = self._answering(words)
        return server if isinstance(server, str) else f"{server.percentage:.1f}"

    def _set_default_limit(self, words: Words) -> str:
        self._limit(self._mps.limits, words)
        return ""

    def _get_default_limit(self, words: Words) -> str:
        return self._shown(self._mps.limits, words)

    def _set_limit(self, words: Words) -> str:
        server = self._answering(words)
        if isinstance(server, str):
            return server
        self._limit(server.limits, words[1:])
        return ""

    def _get_limit(self, words: Words) -> str:
        server = self._answering(words)
        return server if isinstance(server, str) else self._shown(server.limits, words[1:])

    def _limit(self, limits: dict[int, int], words: Words) -> None:
        ordinal = read_ordinal(words[0]) if words else None
        # What is no number clears the first device.
        size = read_size(words[1]) if ordinal is not None and len(words) > 1 else 0
        if not 0 <= (ordinal or 0) < _MOST_DEVICES:
            self._log("Invalid device ordinal!")
        elif size:
            limits[ordinal or 0] = size
        else:
            limits.pop(ordinal or 0, None)

    def _shown(self, limits: dict[int, int], words: Words) -> str:
        ordinal = (read_ordinal(words[0]) if words else None) or 0
        if not 0 <= ordinal < _MOST_DEVICES:
            self._log("Invalid device ordinal!")
            return ""
        if ordinal not in limits:
            self._log("No default pinned memory limit set for the device!")
            return ""
        return write_size(limits[ordinal])

    def _set_priority(self, words: Words) -> str:
        value = read_ordinal(words[0]) or 0 if words else 0
        if value not in (0, 1):
            return "Invalid priority value - must be 0 or 1!"
        self._mps.priority = value
        return ""


def _number(words: Words) -> int:
    return int(words[0]) if words and words[0].isdecimal() else 0


def _lines(pids: dict[int, Server] | dict[int, Client]) -> str:
    return "\n".join(map(str, pids))
