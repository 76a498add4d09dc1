# SPDX-License-Identifier: MPL-2.0
"""The HTTP listener that Prometheus reads the metrics from.

Whatever a client does, it costs a few threads for a few seconds: a connection that takes longer is
cut, one too many is sent away. An address that cannot be listened on is tried again and again.
Imported only where metrics are served, because it and prometheus-client take 45 ms.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import socket
import socketserver
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

from nomad_nvidia_vgpu.config.values import host_and_port

PATH = "/metrics"

DEADLINE_S = 10.0
"""How long one connection may take, from its first byte to its last: Prometheus' own default."""
MOST_AT_ONCE = 4
MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0

_POLL_S = 0.5
_PAUSE_S = 0.5
_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

_OPENMETRICS = "application/openmetrics-text"

_log = logging.getLogger(__name__)


class MetricsServer:
    """Serves one registry on one address, in the thread that calls `run`."""

    def __init__(
        self,
        address: str,
        registry: CollectorRegistry,
        retry_s: float,
        deadline_s: float = DEADLINE_S,
        most_at_once: int = MOST_AT_ONCE,
    ) -> None:
        """Listens on nothing yet; `address` is a valid `metrics_address`."""
        parts = host_and_port(address)
        assert parts is not None, "SetConfig has checked it"
        self._address = address
        self._host, self._port = parts
        self._registry = registry
        self._retry_s = min(max(retry_s, MIN_RETRY_S), MAX_RETRY_S)
        self._deadline_s = deadline_s
        self._most_at_once = most_at_once
        self._stopped = threading.Event()

    def run(self) -> None:
        """Listens and serves until stopped; waits and tries again while it cannot listen."""
        told = ""
        while not self._stopped.is_set():
            try:
                listener = self._listen()
            except OSError as error:
                why = error.strerror or str(error)
                if why != told:
                    told = why
                    _log.warning(
                        "no metrics: cannot listen on metrics_address %s (%s): free it or set"
                        " another; trying again every %g s",
                        self._address,
                        why,
                        self._retry_s,
                    )
                self._stopped.wait(self._retry_s)
                continue
            _log.info("metrics are at http://%s%s", self._address, PATH)
            told = ""
            with listener:
                while not self._stopped.is_set():
                    listener.handle_request()
                    listener.cut_late()

    def stop(self) -> None:
        """Ends `run` soon, from another thread."""
        self._stopped.set()

    def _listen(self) -> _Listener:
        """OSError when the name is not known, or the address not free or not this node's."""
        family, _, _, _, address = socket.getaddrinfo(
            self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _Listener(family, address, self._registry, self._deadline_s, self._most_at_once)


class _Listener(socketserver.TCPServer):
    """Accepts connections; each is a short-lived thread, of which there are few."""

    allow_reuse_address = True  # of connections that have ended; never of another listener
    request_queue_size = 16
    timeout = _POLL_S

    def __init__(
        self,
        family: socket.AddressFamily,
        address: Any,
        registry: CollectorRegistry,
        deadline_s: float,
        most_at_once: int,
    ) -> None:
        """Listens; OSError if that is not possible."""
        self.address_family = family
        self.registry = registry
        self.failed = ""
        """The last failure of ours that was logged."""
        self._deadline_s = deadline_s
        self._slots = threading.BoundedSemaphore(most_at_once)
        self._lock = threading.Lock()  # guards what follows, and that none of it is closed
        self._deadlines: dict[socket.socket, float] = {}
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection; OSError if there is none after all."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_PAUSE_S)  # out of file descriptors: the next try would come at once
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Gives the connection a thread, or sends it away when there are too many."""
        if not self._slots.acquire(blocking=False):
            _log.debug("too many connections at once: %s is sent away", client_address)
            request.setblocking(False)
            with contextlib.suppress(OSError):
                request.send(_BUSY)
            self.shutdown_request(request)
            return
        with self._lock:
            self._deadlines[request] = time.monotonic() + self._deadline_s
        try:
            threading.Thread(
                target=self._serve,
                args=(request, client_address),
                name="metrics-scrape",
                daemon=True,
            ).start()
        except RuntimeError:  # no more threads: the caller closes the connection
            self._finished(request)
            raise

    def cut_late(self) -> None:
        """Cuts the connections that have taken too long; called at least twice a second."""
        now = time.monotonic()
        with self._lock:
            for request, deadline in self._deadlines.items():
                if now >= deadline:
                    with contextlib.suppress(OSError):
                        request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A client that hangs up is none of an operator's business."""
        _log.debug("a scrape by %s ended early", client_address, exc_info=True)

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception:  # noqa: BLE001  as socketserver itself
            self.handle_error(request, client_address)
        finally:
            self._finished(request)
            self.shutdown_request(request)

    def _finished(self, request: socket.socket) -> None:
        with self._lock:
            self._deadlines.pop(request, None)
        self._slots.release()


class _Handler(BaseHTTPRequestHandler):
    """Answers one request; HTTP/1.0, so that a connection is one request."""

    server: _Listener
    server_version = "nvidia-vgpu"
    sys_version = ""

    def do_GET(self) -> None:
        """The metrics, in the form that the client prefers."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """What GET would say, without saying it."""
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  named by http.server
        """Nothing may be printed."""
        _log.debug(format, *args)

    def _answer(self, *, body: bool) -> None:
        if self.path.partition("?")[0] != PATH:
            self._send(HTTPStatus.NOT_FOUND, b"the metrics are at " + PATH.encode() + b"\n", body)
            return
        # Not as the client wrote it: prometheus-client fails on versions that are none.
        asked = _OPENMETRICS in self.headers.get("Accept", "")
        encode, kind = choose_encoder(f"{_OPENMETRICS};version=1.0.0" if asked else "text/plain")
        try:
            page = encode(self.server.registry)
        except Exception as error:  # noqa: BLE001  the next scrape may succeed
            if repr(error) != self.server.failed:
                self.server.failed = repr(error)
                _log.exception("the metrics failed in an unforeseen way: report this as a bug")
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, b"see the log of the agent\n", body)
            return
        self._send(HTTPStatus.OK, page, body, kind)

    def _send(self, status: HTTPStatus, page: bytes, body: bool, kind: str = "text/plain") -> None:  # noqa: FBT001
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            page = gzip.compress(page, compresslevel=1)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if body:
            self.wfile.write(page)
