# SPDX-License-Identifier: MPL-2.0
"""A gRPC service whose code is loaded when it is first called.

A host starts a plugin several times and calls most services in one of them only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import grpc

Handlers = Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]
"""A service's handlers by method name."""


class LateService(grpc.GenericRpcHandler):
    """Handlers that `load` makes at the first call of any method of the service."""

    def __init__(self, name: str, load: Callable[[], Handlers]) -> None:
        """`name` is the full name of the service; `load` is called once."""
        self._prefix = f"/{name}/"
        self._load = load
        self._lock = threading.Lock()
        self._handlers: Handlers | None = None

    @property
    def called(self) -> bool:
        """Whether any of its methods has been called."""
        return self._handlers is not None

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of one call, or None if it is not of this service."""
        method = str(handler_call_details.method)
        if not method.startswith(self._prefix):
            return None
        with self._lock:
            if self._handlers is None:
                self._handlers = self._load()
        return self._handlers.get(method.removeprefix(self._prefix))
