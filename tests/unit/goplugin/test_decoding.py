# SPDX-License-Identifier: MPL-2.0
"""Messages that are none; that they leave nothing behind is for `contract`."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from nomad_nvidia_vgpu.goplugin.decoding import Decoding
from unit.rpc.fake_context import Aborted, FakeContext


def handler(made: Any) -> Any:
    """Gives the handler as the server gets it."""
    return Decoding().intercept_service(lambda _: made, None)  # type: ignore[arg-type]


def decode(data: bytes) -> str:
    """As a message's own."""
    return data.decode("ascii")


def test_a_message_is_handed_on() -> None:
    """What can be decoded comes to the handler, be it of one answer or of many."""
    unary = handler(grpc.unary_unary_rpc_method_handler(lambda r, _: r * 2, decode, None))
    assert unary.unary_unary(unary.request_deserializer(b"ab"), FakeContext()) == "abab"
    stream = handler(grpc.unary_stream_rpc_method_handler(lambda r, _: iter(r), decode, None))
    assert list(stream.unary_stream(stream.request_deserializer(b"ab"), FakeContext())) == [*"ab"]
    assert handler(None) is None


def test_nonsense_is_refused() -> None:
    """With a status, and without an exception for grpc to keep."""
    unary = handler(grpc.unary_unary_rpc_method_handler(lambda r, _: r, decode, None))
    with pytest.raises(Aborted) as caught:
        unary.unary_unary(unary.request_deserializer(b"\xff"), FakeContext())
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
