# SPDX-License-Identifier: MPL-2.0
"""Waiting for conditions, never for time."""

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
_POLL_S = 0.1
PATIENCE_S = 120.0
"""Ends a test that waits in vain; nothing takes as long, even where the CPU is scarce."""


class NotInTimeError(Exception):
    """A condition did not come true before its deadline."""


def wait_until(
    what: str, look: Callable[[], _T | None], timeout_s: float = PATIENCE_S, seen: object = ""
) -> _T:
    """The first true value that `look` returns; NotInTimeError naming `what` and `seen`."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            detail = seen() if callable(seen) else seen
            raise NotInTimeError(f"not within {timeout_s:g} s: {what}\n{detail}")
        time.sleep(_POLL_S)
