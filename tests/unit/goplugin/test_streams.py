# SPDX-License-Identifier: MPL-2.0
"""How many streams are served at once; that the end finds a thread is for `contract`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import grpc
import pytest

from nomad_nvidia_vgpu.goplugin.server import MOST_STREAMS, WORKERS
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


class Details(NamedTuple):
    """As much of the details of a call as is asked for."""

    method: str


def limited(limit: StreamLimit, handler: Any, method: str = "/Some/Method") -> Any:
    """Gives a handler as the server would call it."""
    details: Any = Details(method)
    return limit.intercept_service(lambda _: handler, details)


def test_as_many_streams_as_may_be_are_open_at_once() -> None:
    """One more is refused with the number, and served when another has ended."""
    limit = StreamLimit(1)
    handler = limited(limit, grpc.unary_stream_rpc_method_handler(numbers))
    first = handler.unary_stream(b"", Context())
    assert next(first) == 1
    with pytest.raises(
        RefusedError, match=r"RESOURCE_EXHAUSTED.*1 streams of this method are open"
    ):
        next(handler.unary_stream(b"", Context()))
    first.close()
    assert list(handler.unary_stream(b"", Context())) == [1, 2]


def test_streams_of_both_kinds_count() -> None:
    """Those that are sent messages hold a thread as well."""
    limit = StreamLimit(1)
    handler = limited(limit, grpc.stream_stream_rpc_method_handler(numbers)).stream_stream
    held = handler(iter(()), Context())
    next(held)
    with pytest.raises(RefusedError):
        next(handler(iter(()), Context()))
    held.close()


def test_streams_of_one_method_keep_out_no_others() -> None:
    """A host gives up for good a plugin whose fingerprint was refused, however many read stats."""
    limit = StreamLimit(1)
    handler: Any = grpc.unary_stream_rpc_method_handler(numbers)
    held = limited(limit, handler, "/Plugin/Stats").unary_stream(b"", Context())
    next(held)
    other = limited(limit, handler, "/Plugin/Fingerprint").unary_stream(b"", Context())
    assert list(other) == [1, 2]
    held.close()


def test_the_streams_of_all_methods_leave_threads() -> None:
    """As many as there may be, of all five that stream."""
    assert 5 * MOST_STREAMS < WORKERS - 3


def test_short_calls_are_never_refused() -> None:
    """Nor are those that nobody serves, which gRPC answers itself."""
    limit = StreamLimit(1)
    handler: Any = grpc.unary_unary_rpc_method_handler(numbers)
    assert limited(limit, handler) is handler
    assert limited(limit, None) is None
