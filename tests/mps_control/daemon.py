# SPDX-License-Identifier: MPL-2.0
"""The control daemon: its socket, its one server at a time, and who waits for whom."""

import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from . import server as server_process
from .limits import read_percentage, visible
from .log import Log
from .model import ACTIVE, FAULT, INITIALIZING, Client, Language, Mps, Server
from .state import (
    CANNOT_CONNECT,
    CONTROL,
    LOG,
    NO_DEVICE,
    NOT_READY,
    PID,
    PRIVILEGED,
    SERVER,
    TERMINATED,
    TOO_MANY_CLIENTS,
    Directories,
    State,
)

_CLIENT_LIMIT = 48
# Switches and deadlines send no event; only while one can matter are they looked at.
_TICK_S = 0.02


class Link:
    """One connection from the tool, a client or a test."""

    def __init__(self, link: socket.socket) -> None:
        """Takes the socket over."""
        self.socket = link
        self._unread = b""
        self.client: Client | None = None
        self.uid = 0

    def messages(self) -> list[dict[str, Any]] | None:
        """Whole messages that have come, None once the other side has gone."""
        try:
            data = self.socket.recv(65536)
        except OSError:
            return None
        if not data:
            return None
        *lines, self._unread = (self._unread + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def send(self, message: dict[str, Any]) -> None:
        """Say something; one who has gone need not hear it."""
        with suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")


class _Quit(NamedTuple):
    link: Link
    deadline: float | None


class Daemon:
    """Serves one pipe directory until it is told to quit."""

    def __init__(
        self, state: State, where: Directories, *, multi_user: bool, foreground: bool = False
    ) -> None:
        """Devices, the default percentage and the default priority come from the environment."""
        self._state = state
        self._version = state.version()
        self._pipe = where.pipe
        own_log = None if foreground else where.log / "control.log"
        self._log = Log(own_log, "Control", where.pipe / LOG)
        self._multi_user = multi_user
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
        self._mps = Mps([name.strip() for name in devices])
        own = read_percentage(os.environ.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", ""))
        self._mps.percentage = own or self._mps.percentage
        self._mps.priority = int(os.environ.get("CUDA_MPS_CLIENT_PRIORITY") == "1")
        ways = (self._start_server, self._kill_server)
        self._language = Language(self._mps, self._version, ways, self._log.write)
        self._selector = selectors.DefaultSelector()
        self._server_links: dict[int, Link] = {}
        self._pending: list[Link] = []
        self._ui: Link | None = None
        self._quit: _Quit | None = None
        self._failed = False
        """Whether any server has ended by itself and badly."""
        self._listener = socket.socket(socket.AF_UNIX)

    def listen(self) -> None:
        """Take the sockets and the pid file over from whoever died here; raises OSError."""
        server_process.name_process()
        path = self._pipe / CONTROL
        privileged = socket.socket(socket.AF_UNIX)
        for listener, name, mode in (
            (self._listener, CONTROL, 0o666),
            (privileged, PRIVILEGED, 0o755),
        ):
            (self._pipe / name).unlink(missing_ok=True)
            listener.bind(str(self._pipe / name))
            (self._pipe / name).chmod(mode)
        self._privileged = privileged
        self._listener.listen(128)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        if self._version.pid_file:
            (self._pipe / PID).write_text(str(os.getpid()), encoding="ascii")
            (self._pipe / PID).chmod(0o666)
        self._log.write(f"Starting control daemon using socket {path}")
        self._log.write(
            "To connect CUDA applications to this daemon, "
            f"set env CUDA_MPS_PIPE_DIRECTORY={self._pipe}"
        )

    def run(self) -> NoReturn:
        """Serve for good."""
        while True:
            for key, _ in self._selector.select(_TICK_S if self._is_waiting() else None):
                handle: Callable[[], None] = key.data
                handle()
            self._advance()

    def _is_waiting(self) -> bool:
        servers = self._mps.servers.values()
        unready = any(server.status == INITIALIZING for server in servers)
        return bool(unready or self._pending or self._quit)

    def _advance(self) -> None:
        for server in self._mps.servers.values():
            self._settle(server)
        pending, self._pending = self._pending, []
        self._pending = [link for link in pending if not self._admit(link)]
        if self._quit is not None:
            self._try_to_quit(self._quit)

    # ---- connections ----

    def _accept(self) -> None:
        link = Link(self._listener.accept()[0])
        self._log.write("Accepting connection...")
        self._selector.register(link.socket, selectors.EVENT_READ, lambda: self._read(link))

    def _read(self, link: Link) -> None:
        messages = link.messages()
        if messages is None:
            self._drop(link)
            return
        for message in messages:
            if "open" in message:
                self._open(link, message["open"])
            elif "ui" in message:
                self._obey(link, message["ui"])
            elif "client" in message:
                link.client = Client(**message["client"], terminate=lambda: self._terminate(link))
                self._pending.append(link)
            elif "server" in message:
                self._greet(link, message["server"])
            else:
                self._break_servers(link)

    def _open(self, link: Link, uid: int) -> None:
        """Let one prompt in at a time; every other finds the door shut."""
        if self._ui is not None:
            self._drop(link)
            return
        self._ui, link.uid = link, uid
        self._log.write("NEW UI")
        link.send({"text": ""})

    def _drop(self, link: Link) -> None:
        self._selector.unregister(link.socket)
        link.socket.close()
        if link is self._ui:
            self._ui = None
            self._log.write("UI closed")
        self._pending = [other for other in self._pending if other is not link]
        if link.client is not None:
            self._forget(link.client)

    def _forget(self, client: Client) -> None:
        for server in self._mps.servers.values():
            if server.clients.get(client.pid) is client:
                del server.clients[client.pid]
                server.faulted.discard(client.pid)
                self._log.write(f"Client {client.pid} disconnected")

    def _obey(self, link: Link, line: str) -> None:
        self._log.write(f"Cmd:{line}")
        command, *words = line.split() or [""]
        if command != "quit":
            if self._quit is None:  # else there is no answer any more
                self._answer(link, self._language.answer(line, link.uid, os.getuid()))
        elif link.uid not in (0, os.getuid()):
            self._answer(link, "Not enough privilege to execute quit command")
        elif self._state.rule("ignore_quit", "quit", str(self._pipe)):
            link.send({"text": ""})
        else:
            has_timeout = len(words) > 1 and words[0] == "-t" and words[1].isdecimal()
            if has_timeout:
                self._log.write(f"quit command issued with timeout of {words[1]}")
            deadline = time.monotonic() + int(words[1]) if has_timeout else None
            self._quit = _Quit(link, deadline)

    def _answer(self, link: Link, text: str) -> None:
        if text:
            self._log.write(text)
        link.send({"text": text})

    # ---- clients ----

    def _admit(self, link: Link) -> bool:
        """Decide about a client that waits; False while it has to go on waiting."""
        client = link.client
        assert client is not None
        seen = visible(client.wanted, self._mps.devices)
        server = next(iter(self._mps.servers.values()), None)
        if error := self._refusal(server, seen):
            link.send({"error": error})
            return True
        if server is None:
            self._start_server(client.uid)
            return False
        if not self._multi_user and server.uid != client.uid:
            # Its own clients first; only then may the next user have the GPU.
            if not server.clients:
                self._stop_server(server)
            return False
        if server.status == INITIALIZING:
            return False
        client.devices = seen
        server.clients[client.pid] = client
        self._log.write(f"NEW CLIENT {client.pid} from user {client.uid}: Server already exists")
        link.send(
            {
                "server": server.pid,
                "socket": str(server_process.socket_path(self._pipe, server.pid)),
                "devices": seen,
                "limits": {
                    device: server.limits[number]
                    for number, device in enumerate(self._mps.devices)
                    if number in server.limits
                },
                "percentage": server.percentage,
            }
        )
        return True

    def _refusal(self, server: Server | None, seen: list[str]) -> int:
        """The error a client gets now, 0 for none."""
        if not seen:
            return NO_DEVICE
        too_old = self._multi_user and self._state.rule("pre_volta", pipe=str(self._pipe))
        if self._quit is not None or too_old:
            return CANNOT_CONNECT
        if server is None:
            return 0
        if server.status == FAULT:
            return NOT_READY
        limit = self._state.setting("client_limit", _CLIENT_LIMIT)
        return TOO_MANY_CLIENTS if len(server.clients) >= limit else 0

    def _terminate(self, link: Link) -> None:
        assert link.client is not None
        link.send({"error": TERMINATED})
        self._forget(link.client)

    # ---- servers ----

    def _start_server(self, uid: int) -> None:
        if self._mps.servers:
            return
        owner = os.getuid() if self._multi_user else uid
        pid = os.fork()
        if pid == 0:
            # Not as `owner`, who may have no way to the programs of a test.
            self._log.write(f"Starting new server {os.getpid()} for user {owner}")
            self._state.record_process("server", str(self._pipe))
            options = ["-multiuser-server"] if self._multi_user else []
            with suppress(OSError):
                os.execvp(SERVER, [SERVER, *options])
            os._exit(1)
        self._mps.servers[pid] = Server(pid, owner, self._mps.percentage, dict(self._mps.limits))
        pidfd = os.pidfd_open(pid)
        self._selector.register(pidfd, selectors.EVENT_READ, lambda: self._lose(pid, pidfd))

    def _greet(self, link: Link, pid: int) -> None:
        """Take a server for ready that says so."""
        server = self._mps.servers.get(pid)
        if server is not None:
            server.status = ACTIVE
            self._server_links[pid] = link
            self._log.write(f"NEW SERVER {pid}: Ready")

    def _settle(self, server: Server) -> None:
        """Move a server on whose state depends on a switch or on its clients."""
        if server.status == FAULT and not server.faulted:
            server.status = ACTIVE
            self._log.write(f"Server {server.pid} recovered")

    def _kill_server(self, server: Server) -> None:
        """End a server, whoever is on it; it is listed until it has ended."""
        os.kill(server.pid, signal.SIGKILL)

    def _stop_server(self, server: Server) -> None:
        """End a server, whoever is on it, and return when it has ended."""
        self._kill_server(server)
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)

    def _lose(self, pid: int, pidfd: int) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)
        server = self._mps.servers.pop(pid)
        self._server_links.pop(pid, None)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        server_process.socket_path(self._pipe, pid).unlink(missing_ok=True)
        self._failed |= status > 0
        self._log.write(f"Server {pid} exited with status {max(status, 0)}")
        self._log.write("Removed Shm file at ")
        if server.status == INITIALIZING:
            for link in self._pending:
                link.send({"error": NOT_READY})
            self._pending = []

    def _break_servers(self, link: Link) -> None:
        faulted = [server for server in self._mps.servers.values() if server.clients]
        for server in faulted:
            server.status = FAULT
            server.faulted = set(server.clients)
            self._log.write(f"Server {server.pid} encountered a fatal exception")
        link.send({"faulted": len(faulted)})

    # ---- the end ----

    def _try_to_quit(self, request: _Quit) -> None:
        servers = self._mps.servers.values()
        busy = any(server.clients or server.status == INITIALIZING for server in servers)
        in_time = request.deadline is None or time.monotonic() < request.deadline
        if busy and in_time:
            return
        for server in list(servers):
            self._stop_server(server)
            server_process.socket_path(self._pipe, server.pid).unlink(missing_ok=True)
        for name in (LOG, PID):
            (self._pipe / name).unlink(missing_ok=True)
        # After a server that failed it is the one or the other, which nobody can foresee.
        code = os.getpid() % 2 if self._failed else 0
        self._log.write(f"Exit with status {code}")
        request.link.send({"text": "", "code": code})
        os._exit(0)
