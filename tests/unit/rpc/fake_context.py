# SPDX-License-Identifier: MPL-2.0
"""A gRPC context of a call that a test makes itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, cast

import grpc


class Aborted(Exception):  # noqa: N818  gRPC's word
    """The call was answered with an error."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        """Keeps both."""
        super().__init__(text)
        self.code = code


class FakeContext:
    """Of a client that listens until the test hangs up."""

    def __init__(self, *, over: bool = False) -> None:
        """`over`: the client has hung up before the call began."""
        self._over = over
        self._callbacks: list[Callable[[], None]] = []

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """Ends the call, as gRPC does, by raising."""
        raise Aborted(code, details)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Keeps what is to be called at the end; False when that is over."""
        if not self._over:
            self._callbacks.append(callback)
        return not self._over

    def hang_up(self) -> None:
        """The client hangs up."""
        self._over = True
        for callback in self._callbacks:
            callback()

    def as_context(self) -> grpc.ServicerContext:
        """Itself, by the type that a service asks for."""
        return cast("Any", self)  # type: ignore[no-any-return]
