# SPDX-License-Identifier: MPL-2.0
"""A service whose code is loaded when it is first called."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import grpc
import pytest

from nomad_nvidia_vgpu.goplugin.late import Handlers, LateService


class Call(NamedTuple):
    """What gRPC tells of a call."""

    method: str
    invocation_metadata: tuple[Any, ...] = ()


class Loaded:
    """A late service that counts how often it was loaded."""

    def __init__(self) -> None:
        """Is not loaded yet."""
        self.times = 0
        self.handler: Any = grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")
        self.service = LateService("a.b.Service", self._load)

    def call(self, method: str) -> Any:
        """Gives the handler of a call."""
        details: Any = Call(method)
        return self.service.service(details)

    def _load(self) -> Handlers:
        self.times += 1
        return {"Known": self.handler}


@pytest.mark.parametrize("method", ["/a.b.Other/Known", "/a.b.ServiceToo/Known", "Known", ""])
def test_calls_of_other_services_load_nothing(method: str) -> None:
    """A call of another service is left to it, and nothing is loaded."""
    loaded = Loaded()
    assert loaded.call(method) is None
    assert loaded.times == 0
    assert not loaded.service.called


def test_the_first_call_loads_and_the_next_does_not() -> None:
    """The handlers are made at the first call, once, and answer every call."""
    loaded = Loaded()
    assert loaded.call("/a.b.Service/Known") is loaded.handler
    assert loaded.call("/a.b.Service/Known") is loaded.handler
    assert loaded.times == 1
    assert loaded.service.called


def test_an_unknown_method_has_no_handler() -> None:
    """A method that the service does not have is left unanswered, for gRPC to refuse."""
    assert Loaded().call("/a.b.Service/Unknown") is None


def test_calls_at_the_same_time_load_once() -> None:
    """Many first calls at once load the service once."""
    loaded = Loaded()
    together = threading.Barrier(8)

    def call() -> None:
        together.wait()
        loaded.call("/a.b.Service/Known")

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loaded.times == 1
