# SPDX-License-Identifier: MPL-2.0
"""The HTTP listener of the metrics; on loopback, with clients of every kind."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from nomad_nvidia_vgpu.metrics import server
from nomad_nvidia_vgpu.metrics.server import PATH, MetricsServer
from unit.manual_clock import DEADLINE_S

LOOPBACK = "127.0.0.1"


class One(Collector):
    """One metric; or an error."""

    def __init__(self) -> None:
        """Works."""
        self.error: Exception | None = None

    def collect(self) -> list[Metric]:
        """The metric."""
        if self.error is not None:
            raise self.error
        return [GaugeMetricFamily("one", "The number one", value=1.0)]


class Serving:
    """A server in a thread of its own."""

    def __init__(self, port: int, **limits: Any) -> None:
        """Serves on this port of loopback."""
        self.port = port
        self.collector = One()
        registry = CollectorRegistry()
        registry.register(self.collector)
        self.server = MetricsServer(f"{LOOPBACK}:{port}", registry, 0.0, **limits)
        self.server._retry_s = 0.01
        self._tries = threading.Semaphore(0)
        self._listen = self.server._listen
        self.server._listen = self._try  # type: ignore[method-assign]
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()

    def wait_for_tries(self, count: int) -> None:
        """Waits until it has tried to listen so many times more."""
        for _ in range(count):
            assert self._tries.acquire(timeout=DEADLINE_S)

    def _try(self) -> Any:
        try:
            return self._listen()
        finally:
            self._tries.release()

    def connect(self) -> socket.socket:
        """A connection, as soon as the server listens."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                return socket.create_connection((LOOPBACK, self.port), timeout=DEADLINE_S)
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, "it never listened"
                time.sleep(0.01)

    def ask(self, path: str = PATH, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
        """The status, the headers and the body of an answer."""
        self.connect().close()
        client = http.client.HTTPConnection(LOOPBACK, self.port, timeout=DEADLINE_S)
        client.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = client.getresponse()
        body = answer.read()
        client.close()
        return answer.status, answer.headers, body

    def ask_until(self, wanted: int) -> None:
        """Asks until the answer has this status: a slot may be free a moment later."""
        deadline = time.monotonic() + DEADLINE_S
        while self._status() != wanted:
            assert time.monotonic() < deadline, f"never {wanted}"

    def _status(self) -> int | None:
        try:
            return self.ask()[0]
        except (OSError, http.client.HTTPException):
            return None  # sent away so fast that its request met a closed connection


Serve = Callable[..., Serving]


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server((LOOPBACK, 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def serve(free_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts servers; ends them after the test."""
    monkeypatch.setattr(server._Listener, "timeout", 0.02)
    started: list[Serving] = []

    def start(**limits: Any) -> Serving:
        started.append(Serving(free_port, **limits))
        return started[-1]

    yield start
    for running in started:
        running.server.stop()
        running.thread.join(DEADLINE_S)
        assert not running.thread.is_alive()


def test_metrics_are_at_one_path(serve: Serve) -> None:
    """The path that every scraper assumes has them, and another says where they are."""
    serving = serve()
    status, headers, body = serving.ask()
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b"\none 1.0\n" in body
    assert serving.ask("/metrics?name=x")[2] == body
    assert serving.ask("/")[::2] == (404, b"the metrics are at /metrics\n")


def test_a_scraper_gets_the_form_that_it_asks_for(serve: Serve) -> None:
    """OpenMetrics, and compressed, where the client says so."""
    status, headers, body = serve().ask(
        Accept="application/openmetrics-text;version=1.0.0", Accept_Encoding="gzip"
    )
    assert status == 200
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert gzip.decompress(body).endswith(b"# EOF\n")


@pytest.mark.parametrize(
    "accept", ["text/plain;version=x", "application/openmetrics-text;version=9;escaping=x", ";,;="]
)
def test_any_wish_is_answered(serve: Serve, accept: str) -> None:
    """A client that asks for what does not exist gets one of the two forms."""
    status, _, body = serve().ask(Accept=accept)
    assert status == 200
    assert b"\none 1.0\n" in body


def test_only_reading_is_possible(serve: Serve) -> None:
    """HEAD has no body, and nothing else is understood."""
    serving = serve()
    status, headers, body = serving.ask(method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0
    assert serving.ask(method="POST")[0] == 501


def test_an_error_of_ours_is_an_answer(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Metrics that cannot be made are logged once and answered with 500; the next may be fine."""
    serving = serve()
    serving.collector.error = ValueError("odd")
    assert serving.ask()[0] == 500
    assert serving.ask()[0] == 500
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    serving.collector.error = None
    assert serving.ask()[0] == 200


def test_a_client_that_says_nothing_is_cut(serve: Serve) -> None:
    """A connection that takes too long ends, and what it held is free again."""
    serving = serve(deadline_s=0.2, most_at_once=1)
    # A client that is held up itself may be cut before it has said anything.
    with serving.connect() as silent, contextlib.suppress(ConnectionError):
        silent.sendall(b"GET /met")
        assert silent.recv(1) == b""
    serving.ask_until(200)


def test_a_client_that_reads_nothing_is_cut(serve: Serve) -> None:
    """An answer that nobody takes does not hold a thread for ever."""
    serving = serve(deadline_s=0.2, most_at_once=1)
    serving.collector.collect = lambda: [  # type: ignore[method-assign]
        GaugeMetricFamily("one", "x" * 20_000_000, value=1.0)
    ]
    with serving.connect() as deaf:
        with contextlib.suppress(ConnectionError):  # as above
            deaf.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            deaf.recv(1)
        serving.collector.collect = One().collect  # type: ignore[method-assign]
        serving.ask_until(200)


def test_one_too_many_is_sent_away(serve: Serve) -> None:
    """While as many connections are open as may be, another is told so at once."""
    serving = serve(most_at_once=2)
    held = [serving.connect() for _ in range(2)]
    for client in held:
        client.sendall(b"GET ")
    serving.ask_until(503)
    for client in held:
        client.close()
    serving.ask_until(200)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\xff" * 300,
        b"GET /metrics\r\n",
        b"\r\n",
        b"A" * 70_000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 5_000_000,
        b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 100_000,
        b"POST /metrics HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n",
        b"F\x1b[31mOO /metrics HTTP/1.1\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n",
    ],
    ids=range(10),
)
def test_nonsense_does_no_harm(serve: Serve, sent: bytes) -> None:
    """Whatever is sent, the next scraper is served."""
    serving = serve()
    with serving.connect() as odd, contextlib.suppress(ConnectionError):  # it may be cut off
        odd.sendall(sent)
    assert serving.ask()[0] == 200


def test_an_address_in_use_is_said_once_and_tried_again(
    serve: Serve, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The plugin of the agent before may still hold it: when it goes, the metrics come."""
    with socket.create_server((LOOPBACK, free_port)):
        serving = serve()
        serving.wait_for_tries(3)
    serving.ask_until(200)
    (warning,) = warnings(caplog)
    where = f"metrics_address {LOOPBACK}:{free_port} (Address already in use)"
    assert warning.startswith(f"no metrics: cannot listen on {where}: free it or set another;")


def test_another_cause_is_said_too(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A name that is not known, then one of another node: one line each, and it goes on."""
    causes: list[OSError] = [socket.gaierror(-2, "Name or service not known")] * 2
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: fail_with(causes))
    serving = serve()
    serving.wait_for_tries(5)
    monkeypatch.undo()
    serving.ask_until(200)
    assert [text.split("(")[1].split(")")[0] for text in warnings(caplog)] == [
        "Name or service not known",
        "Cannot assign requested address",
    ]


def fail_with(causes: list[OSError]) -> Any:
    """Raises the next cause; then gives an address that is documentation's, and nobody's."""
    if causes:
        raise causes.pop()
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 9400))]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The texts of the warnings so far."""
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


@pytest.mark.parametrize(("asked_s", "used_s"), [(0.1, 1.0), (30.0, 30.0), (3600.0, 60.0)])
def test_an_address_is_tried_again_in_good_time(asked_s: float, used_s: float) -> None:
    """Neither many times a second nor once an hour."""
    assert MetricsServer("127.0.0.1:1", CollectorRegistry(), asked_s)._retry_s == used_s
