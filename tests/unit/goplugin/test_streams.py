# SPDX-License-Identifier: MPL-2.0
"""How many streams are served at once; that the end finds a thread is for `contract`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import grpc
import pytest

from nomad_nvidia_vgpu.goplugin.streams import StreamLimit


class RefusedError(Exception):
    """What the call was ended with."""


class Context:
    """As much of a call as is asked for."""

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """As gRPC's."""
        raise RefusedError(code, details)


def numbers(_request: object, _context: object) -> Iterator[int]:
    """A stream of two messages."""
    yield from (1, 2)


def limited(limit: StreamLimit, handler: Any) -> Any:
    """Gives a handler as the server would call it."""
    nothing: Any = None
    return limit.intercept_service(lambda _: handler, nothing)


def test_as_many_streams_as_may_be_are_open_at_once() -> None:
    """One more is refused with the number, and served when another has ended."""
    limit = StreamLimit(1)
    handler = limited(limit, grpc.unary_stream_rpc_method_handler(numbers))
    first = handler.unary_stream(b"", Context())
    assert next(first) == 1
    with pytest.raises(RefusedError, match=r"RESOURCE_EXHAUSTED.*1 streams are open"):
        next(handler.unary_stream(b"", Context()))
    first.close()
    assert list(handler.unary_stream(b"", Context())) == [1, 2]


def test_streams_of_both_kinds_count() -> None:
    """What the broker holds is no more free than what the stats hold."""
    limit = StreamLimit(1)
    first = limited(limit, grpc.stream_stream_rpc_method_handler(numbers)).stream_stream
    other = limited(limit, grpc.unary_stream_rpc_method_handler(numbers)).unary_stream
    held = first(iter(()), Context())
    next(held)
    with pytest.raises(RefusedError):
        next(other(b"", Context()))
    held.close()


def test_short_calls_are_never_refused() -> None:
    """Nor are those that nobody serves, which gRPC answers itself."""
    limit = StreamLimit(1)
    handler: Any = grpc.unary_unary_rpc_method_handler(numbers)
    assert limited(limit, handler) is handler
    assert limited(limit, None) is None
