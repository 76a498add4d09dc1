# SPDX-License-Identifier: MPL-2.0
"""Refuses messages that are none, at no cost that stays: grpc keeps some 16 KiB of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

_Continuation = Callable[[grpc.HandlerCallDetails], "grpc.RpcMethodHandler[Any, Any] | None"]


class _Nonsense:
    """In the place of a message that could not be decoded."""


class Decoding(grpc.ServerInterceptor):
    """Has every handler of one message decode it so that grpc sees no error."""

    def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """The handler of a call; of one that streams requests as it is."""
        handler: Any = continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        decode = _careful(handler.request_deserializer)
        encode = handler.response_serializer
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                _stream(handler.unary_stream), decode, encode
            )
        return grpc.unary_unary_rpc_method_handler(_unary(handler.unary_unary), decode, encode)


def _careful(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if decode is None:
        return None

    def decoded(data: bytes) -> Any:
        try:
            return decode(data)
        except Exception:  # noqa: BLE001  whatever the library says of them
            return _Nonsense()

    return decoded


def _refuse(request: object, context: grpc.ServicerContext) -> None:
    if isinstance(request, _Nonsense):
        context.abort(
            grpc.StatusCode.INVALID_ARGUMENT,
            "the request is no message that this plugin knows: see which versions of host and"
            " plugin meet",
        )


def _unary(behavior: Callable[..., Any]) -> Callable[..., Any]:
    def handle(request: Any, context: grpc.ServicerContext) -> Any:
        _refuse(request, context)
        return behavior(request, context)

    return handle


def _stream(behavior: Callable[..., Any]) -> Callable[..., Any]:
    def handle(request: Any, context: grpc.ServicerContext) -> Any:
        _refuse(request, context)
        yield from behavior(request, context)

    return handle
