# SPDX-License-Identifier: MPL-2.0
"""Calls that wait until a lock is let go."""

from __future__ import annotations

import threading

import pytest

from nomad_nvidia_vgpu.outbox import Outbox
from unit.manual_clock import DEADLINE_S


def test_what_is_put_waits_for_the_delivery_and_keeps_its_order() -> None:
    """What a call puts is delivered behind it; a second delivery has nothing left to do."""
    outbox, made = Outbox(), list[str]()

    def first() -> None:
        made.append("first")
        outbox.put(lambda: made.append("third"))

    outbox.put(first)
    outbox.put(lambda: made.append("second"))
    assert made == []
    outbox.deliver()
    outbox.deliver()
    assert made == ["first", "second", "third"]


def test_calls_of_several_threads_are_made_one_after_the_other() -> None:
    """A thread that comes while another one delivers goes on; its call is made by that one."""
    outbox, made = Outbox(), list[str]()
    under_way, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        under_way.set()
        assert go_on.wait(DEADLINE_S)
        made.append(f"slow by {threading.current_thread().name}")

    outbox.put(slow)
    first = threading.Thread(target=outbox.deliver, name="first")
    first.start()
    assert under_way.wait(DEADLINE_S)
    outbox.put(lambda: made.append(f"quick by {threading.current_thread().name}"))
    outbox.deliver()
    assert made == []
    go_on.set()
    first.join(DEADLINE_S)
    assert made == ["slow by first", "quick by first"]


def test_a_call_that_fails_costs_no_other() -> None:
    """The error reaches who delivers, and the next delivery goes on behind it."""
    outbox, made = Outbox(), list[str]()
    outbox.put(lambda: 1 / 0)
    outbox.put(lambda: made.append("next"))
    with pytest.raises(ZeroDivisionError):
        outbox.deliver()
    outbox.deliver()
    assert made == ["next"]
