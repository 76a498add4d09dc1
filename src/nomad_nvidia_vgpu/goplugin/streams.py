# SPDX-License-Identifier: MPL-2.0
"""Keeps threads free for short calls: each open stream holds one for as long as it lasts."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from nomad_nvidia_vgpu.goplugin.workers import SPARE

_Behavior = Callable[[Any, grpc.ServicerContext], Iterator[Any]]


class StreamLimit(grpc.ServerInterceptor):
    """Refuses streams beyond a number, so that Shutdown always finds a thread.

    Each method has a number of its own: streams of one cannot keep out those of another.
    """

    def __init__(self, most: int) -> None:
        """`most` of each method; of all together, fewer than the server has threads."""
        self._most = most
        self._free: defaultdict[str, threading.BoundedSemaphore] = defaultdict(
            lambda: threading.BoundedSemaphore(most)
        )

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of a call, of a stream one that may refuse."""
        handler: Any = continuation(handler_call_details)
        if handler is None or not handler.response_streaming:
            return handler
        make, behavior = (
            (grpc.stream_stream_rpc_method_handler, handler.stream_stream)
            if handler.request_streaming
            else (grpc.unary_stream_rpc_method_handler, handler.unary_stream)
        )
        return make(
            self._limited(self._free[handler_call_details.method], behavior),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _limited(self, free: threading.BoundedSemaphore, behavior: _Behavior) -> _Behavior:
        def handle(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            if threading.current_thread().name == SPARE:
                context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    "no thread can be started for a stream: give the agent more memory or processes",
                )
            if not free.acquire(blocking=False):
                context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{self._most} streams of this method are open, and there is no thread for"
                    " more: close one",
                )
            try:
                yield from behavior(request, context)
            finally:
                free.release()

        return handle
