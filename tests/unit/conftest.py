# SPDX-License-Identifier: MPL-2.0
"""What every unit test is held to beside its own promise."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from unit.held_locks import log_calls_under_locks


@pytest.fixture(autouse=True)
def _no_log_line_under_a_lock() -> Iterator[None]:
    """Fails a test in which a log call of ours is made while a lock of ours is held."""
    with log_calls_under_locks() as found:
        yield
    assert not found, found[0]
