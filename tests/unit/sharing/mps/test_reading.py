# SPDX-License-Identifier: MPL-2.0
"""What an MPS daemon said, and what is to be done about it."""

from __future__ import annotations

import pytest

from nomad_nvidia_vgpu.sharing.mps.limits import Limits
from nomad_nvidia_vgpu.sharing.mps.reading import (
    Reading,
    Server,
    Unsettled,
    corrections,
    unsettled,
)

QUARTER = Limits(3840, 25)
MEMORY, PERCENTAGE = "default_device_pinned_mem_limit", "default_active_thread_percentage"
NEW = Reading((), "", "100.0", "0")
RIGHT = Reading((), "3G", "25.0", "0")


def test_what_differs_is_set_and_nothing_else() -> None:
    """Each setting by itself."""
    assert corrections(NEW, QUARTER) == [f"set_{PERCENTAGE} 25", f"set_{MEMORY} 0 3840M"]
    assert corrections(RIGHT, QUARTER) == []
    assert corrections(RIGHT, Limits(3840, 50)) == [f"set_{PERCENTAGE} 50"]
    assert corrections(RIGHT, Limits(3840, 25, 1)) == ["set_default_client_priority 1"]


def test_what_is_shown_rounded_is_set_again_when_asked() -> None:
    """`3G` may be 3840 MiB or another limit of before."""
    assert corrections(RIGHT, QUARTER, again=True) == [f"set_{MEMORY} 0 3840M"]


@pytest.mark.parametrize("shown", ["3840M", "3840MB", "3840 MB", "4026531840", "3G", "3g"])
def test_a_limit_is_known_in_each_form(shown: str) -> None:
    """Releases of the tool may differ in how they spell a size."""
    assert unsettled(RIGHT._replace(memory=shown), QUARTER) == []


@pytest.mark.parametrize(
    "said", ["", "Unknown command: get", "-1", "25 G", "nan", "25.0.0", "²G", "4G", "2G", "500M"]
)
def test_words_that_are_another_limit_or_none_are_told(said: str) -> None:
    """Whatever the tool says, it is quoted, never a traceback."""
    read = f"'{said}'" if said else "no word"
    assert unsettled(RIGHT._replace(memory=said), QUARTER) == [Unsettled(MEMORY, "3840M", read)]
    assert unsettled(RIGHT._replace(memory=said), QUARTER)[0].of_memory


def test_a_percentage_that_was_not_applied_is_told() -> None:
    """It says nothing about memory."""
    (limit,) = unsettled(RIGHT._replace(percentage="100.0"), QUARTER)
    assert limit == Unsettled(PERCENTAGE, "25", "'100.0'")
    assert not limit.of_memory


def test_without_limits_nothing_is_said_of_memory() -> None:
    """A limit of the memory cannot be taken off, so none is set; 100 % is none."""
    assert corrections(NEW, Limits(None, None)) == []
    assert unsettled(NEW._replace(memory="1G"), Limits(None, None)) == []


def test_a_server_has_settings_of_its_own_once_it_answers() -> None:
    """Before that they would have no effect."""
    server = Server(7, "INITIALIZING", ())
    assert corrections(RIGHT._replace(servers=(server,)), QUARTER) == []
    assert not server.ready
    server = Server(7, "ACTIVE", (), "", "100.0")
    assert corrections(RIGHT._replace(servers=(server,)), QUARTER) == [
        "set_active_thread_percentage 7 25",
        "set_device_pinned_mem_limit 7 0 3840M",
    ]
    assert [limit.setting for limit in unsettled(RIGHT._replace(servers=(server,)), QUARTER)] == [
        "active_thread_percentage",
        "device_pinned_mem_limit",
    ]


def test_a_server_without_a_status_is_ready_when_it_answers() -> None:
    """Tools up to 535 have no command for it."""
    assert not Server(7, "", ()).ready
    assert Server(7, "", (), "", "100.0").ready
    assert not Server(7, "FAULT", (), "", "100.0").ready


def test_a_tool_without_priorities_has_the_normal_one() -> None:
    """Another is told as missing."""
    without = RIGHT._replace(priority=None)
    assert corrections(without, QUARTER) == []
    (limit,) = unsettled(without, Limits(3840, 25, 1))
    assert (limit.setting, limit.read) == ("default_client_priority", "no word")


def test_a_server_may_be_in_use_when_nobody_knows() -> None:
    """It is not ended."""
    assert Server(7, "ACTIVE", None).in_use
    assert Server(7, "ACTIVE", (1,)).in_use
    assert not Server(7, "ACTIVE", ()).in_use
