# SPDX-License-Identifier: MPL-2.0
"""XIDs are counted without end, and told of now and then."""

from __future__ import annotations

import pytest

from nomad_nvidia_vgpu.gpu.model import XidEvent
from nomad_nvidia_vgpu.state.xid_log import LINE_EVERY_S, OTHER, XidLog


def test_every_xid_is_counted_by_gpu_and_number() -> None:
    """The harmless ones too, and no count ever falls."""
    log = XidLog()
    for xid in (43, 43, 79):
        log.take(XidEvent("GPU-a", xid), (), 0.0)
    log.take(XidEvent("GPU-b", 43, 1, 0), (), 0.0)
    assert log.counts == {("GPU-a", "43"): 2, ("GPU-a", "79"): 1, ("GPU-b", "43"): 1}


def test_a_flood_is_one_line_that_names_the_task(caplog: pytest.LogCaptureFixture) -> None:
    """A task may cause as many as it likes: the log names it, and is not filled by it."""
    caplog.set_level("INFO")
    log = XidLog()
    for number in range(279):
        log.take(XidEvent("GPU-a", 43), ["a1b2/train", "a1b2/train"], number / 100)
    log.take(XidEvent("GPU-a", 43), (), LINE_EVERY_S)
    assert caplog.messages == [
        "XID 43 on GPU-a, 1 since the start; used by a1b2/train",
        "XID 43 on GPU-a, 280 since the start; used by no task that is known",
    ]


def test_many_tasks_are_named_in_part(caplog: pytest.LogCaptureFixture) -> None:
    """A line stays a line."""
    caplog.set_level("INFO")
    XidLog().take(XidEvent("GPU-a", 31), [f"task {i:02}" for i in range(20)], 0.0)
    assert caplog.messages[0].endswith("task 07 and 12 more")


def test_numbers_that_cannot_be_make_no_series_without_end() -> None:
    """A driver that has lost its wits fills no database."""
    log = XidLog()
    for xid in range(1000):
        log.take(XidEvent("GPU-a", xid), (), 0.0)
    assert len(log.counts) == 65
    assert log.counts["GPU-a", OTHER] == 1000 - 64
