# SPDX-License-Identifier: MPL-2.0
"""How a host understands a plugin's log; the rest of the host's side is for `contract`."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.goplugin.host import LogLine, parse_log_line
from nomad_nvidia_vgpu.goplugin.logs import HclogFormatter


def test_a_line_of_ours_is_understood() -> None:
    """What our formatter writes, a host reads with level, message and fields."""
    record = logging.LogRecord("m", logging.WARNING, "", 0, "GPU %d is lost", (3,), None)
    record.__dict__["fields"] = {"gpu": "GPU-a"}
    assert parse_log_line(HclogFormatter().format(record) + "\n") == LogLine(
        "warn", "GPU 3 is lost", {"gpu": "GPU-a"}
    )


@pytest.mark.parametrize("line", ["panic: oh no\n", "[1, 2]", '"text"', "", "{"])
def test_a_line_that_is_no_json_map_is_debug(line: str) -> None:
    """A line of another form is a message at debug, as real hosts take it."""
    assert parse_log_line(line) == LogLine("debug", line.rstrip("\n"), {})


@pytest.mark.parametrize("key", ["@message", "@level", "@timestamp"])
def test_a_line_that_makes_a_host_panic_is_an_error(key: str) -> None:
    """A key of the host's that is no string is reported, for a real host would die of it."""
    with pytest.raises(ValueError, match=f"{key} is not a string"):
        parse_log_line(f'{{"{key}": 5}}')


@given(st.text())
def test_any_text_is_a_line(line: str) -> None:
    """No text that is not a host's own key misused makes the reader fail."""
    assert isinstance(parse_log_line(line), LogLine)
