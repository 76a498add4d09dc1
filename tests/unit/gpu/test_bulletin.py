# SPDX-License-Identifier: MPL-2.0
"""What is told of GPUs, and when."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from nomad_nvidia_vgpu.errors import NOTHING, Problem
from nomad_nvidia_vgpu.gpu.bulletin import TOGETHER_S, Bulletin
from nomad_nvidia_vgpu.gpu.health import Cause, HealthPolicy
from nomad_nvidia_vgpu.gpu.inventory import Stock
from unit.example_gpus import look
from unit.gpu.scripted_source import RecordingSink
from unit.gpu.watching import A, B, C
from unit.manual_clock import ManualClock

LOST = Cause(Problem("lost"), "a test", grave=True)
GPUS = (look(A), look(B), look(C))


class Telling:
    """A bulletin over three GPUs that failed together and have answered well once since."""

    def __init__(self) -> None:
        """Has told that they are unhealthy."""
        self.clock = ManualClock()
        self.sink = RecordingSink()
        self.hurried: list[str] = []
        self.bulletin = Bulletin(self.sink, self.clock)
        self.stock = Stock(HealthPolicy(recovery_period_s=0.0))
        for card in GPUS:
            self.stock.looked(card, 0.0)
            self.stock.failed(card.physical_uuid, LOST, 0.0)
        self.publish()
        for card in GPUS:
            self.stock.looked(card, 0.0)
        self.publish()

    def publish(self) -> None:
        """Tells what is new."""

        def hurry(uuids: Collection[str]) -> None:
            self.hurried += uuids

        self.bulletin.publish(self.stock, complete=True, hurry=hurry)
        self.bulletin.deliver()

    def healthy(self) -> int:
        """How many are, as it was told."""
        return sum(reason == "" for reason in self.sink.health().values())


def test_gpus_that_come_back_together_are_one_message() -> None:
    """The first one waits until the others were looked at, which is asked for at once."""
    on = Telling()
    told = len(on.sink.told)
    for card in GPUS:
        assert on.healthy() == 0
        on.stock.looked(card, 0.0)
        on.publish()
    assert on.healthy() == 3
    assert len(on.sink.told) == told + 1
    assert sorted(on.hurried) == ["GPU-b", "GPU-c"]


def test_good_news_does_not_wait_for_ever() -> None:
    """A GPU that hangs on its way back holds up the others for a moment only."""
    on = Telling()
    on.stock.looked(GPUS[0], 0.0)
    on.publish()
    assert on.healthy() == 0
    on.clock.advance(TOGETHER_S)
    on.publish()
    assert on.healthy() == 1


def test_bad_news_does_not_wait() -> None:
    """A GPU that fails is told of at once, and the good news goes with it."""
    on = Telling()
    for card in GPUS[:2]:
        on.stock.looked(card, 0.0)
        on.publish()
    on.stock.failed("GPU-b", LOST, 0.0)
    on.stock.failed("GPU-c", LOST, 0.0)
    on.publish()
    assert on.sink.health() == {"GPU-a": "", "GPU-b": "lost", "GPU-c": "lost"}


def test_a_sentence_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Until it was not so in between."""
    bulletin = Bulletin(RecordingSink(), ManualClock())
    for problem in (Problem("odd"), Problem("odd"), NOTHING, Problem("odd")):
        bulletin.say("count", problem)
        bulletin.deliver()
    assert caplog.messages == ["odd", "odd"]
