# SPDX-License-Identifier: MPL-2.0
"""go-plugin's own services: Shutdown, the broker stream and the standard-streams stream.

All their messages are empty or never sent here, so they travel as plain bytes and need no
generated code. When a host calls them: docs/internals/nomad.md#stopping
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import grpc

PACKAGES = ("plugin", "proto")
"""The package of go-plugin 1.0 and later, and the one that Nomad 0.9.0 to 0.10.1 calls."""


_Handlers = dict[str, "grpc.RpcMethodHandler[bytes, bytes]"]


def _as_bytes(message: bytes) -> bytes:
    return message


def add_services(server: grpc.Server, stop: Callable[[], None]) -> None:
    """Registers go-plugin's services on `server`; Shutdown calls `stop`, which returns at once."""
    controller: _Handlers = {"Shutdown": grpc.unary_unary_rpc_method_handler(_shutdown(stop))}
    broker: _Handlers = {
        "StartStream": grpc.stream_stream_rpc_method_handler(
            _silent_broker, request_deserializer=_as_bytes, response_serializer=_as_bytes
        )
    }
    stdio: _Handlers = {
        "StreamStdio": grpc.unary_stream_rpc_method_handler(
            _silent_stdio, response_serializer=_as_bytes
        )
    }
    handlers = [grpc.method_handlers_generic_handler("plugin.GRPCStdio", stdio)]
    for package in PACKAGES:
        handlers += [
            grpc.method_handlers_generic_handler(f"{package}.GRPCController", controller),
            grpc.method_handlers_generic_handler(f"{package}.GRPCBroker", broker),
        ]
    server.add_generic_rpc_handlers(tuple(handlers))


def _shutdown(
    stop: Callable[[], None],
) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    def handle(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        stop()
        return b""

    return handle


def _silent_broker(requests: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
    """Reads until the host ends its side; there is no second connection to broker."""
    for _request in requests:
        pass
    return iter(())


def _silent_stdio(_request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    """Holds the stream open and sends nothing: standard output is silenced, stderr is the log."""
    ended = threading.Event()
    if context.add_callback(ended.set):
        ended.wait()
    return iter(())
