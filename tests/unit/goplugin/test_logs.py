# SPDX-License-Identifier: MPL-2.0
"""Log records as hclog's JSON."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.goplugin.logs import (
    LEVEL_NAMES,
    HclogFormatter,
    StderrHandler,
    configure,
    drain,
    fields,
    level_name,
    printable,
)
from unit.manual_clock import DEADLINE_S

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
ANY_TEXT = st.text(st.characters(exclude_categories=[]))  # surrogates, too
EXCEPTIONS = st.builds(ValueError, ANY_TEXT) | st.just(OSError(2, "a\nb", "/x"))


def record(message: object, *args: object, **more: Any) -> logging.LogRecord:
    """Gives a record as a logger would make it."""
    made = logging.LogRecord("module", logging.INFO, "", 0, message, args, None)
    made.__dict__.update(more)
    return made


def line_of(made: logging.LogRecord) -> dict[str, Any]:
    """Gives the line, after checking what would make a host panic or lose it."""
    text = HclogFormatter().format(made)
    assert len(text.splitlines()) == 1
    assert len(text.encode()) < 64 * 1024
    line: dict[str, Any] = json.loads(text)
    assert all(isinstance(line[key], str) for key in ("@message", "@level", "@timestamp"))
    assert TIMESTAMP.fullmatch(line["@timestamp"])
    return line


@given(
    message=ANY_TEXT | st.integers() | st.lists(ANY_TEXT) | st.none() | EXCEPTIONS,
    args=st.lists(ANY_TEXT | st.integers() | st.floats() | st.none(), max_size=3),
    fields=st.none() | st.dictionaries(ANY_TEXT, ANY_TEXT | st.floats() | st.integers()),
    created=st.floats(0, 4e9),
    level=st.integers(0, 100),
)
def test_any_record_is_one_line_of_json(
    message: object, args: list[object], fields: Any, created: float, level: int
) -> None:
    """Whatever a record holds, it comes out as one line that no host chokes on."""
    line_of(record(message, *args, fields=fields, created=created, levelno=level))


@given(EXCEPTIONS, ANY_TEXT)
def test_any_traceback_is_one_line_of_json(error: Exception, message: str) -> None:
    """A traceback, whatever its exception says, is part of its one line."""
    try:
        raise error
    except type(error):
        line = line_of(record("%s", message, exc_info=sys.exc_info()))
    assert "Traceback" in line["@message"]
    assert type(error).__name__ in line["@message"]


@pytest.mark.parametrize("size", [8_000, 100_000, 10_000_000])
def test_a_huge_message_is_cut(size: int) -> None:
    """A message of any size fits the host's line buffer and tells how long it was."""
    assert line_of(record("x" * size))["@message"].startswith("xxx")


def test_a_cut_message_says_so() -> None:
    """What was cut off is announced by the length of the whole."""
    assert line_of(record("x" * 100_000))["@message"].endswith("… (100000 characters)")


def test_many_large_fields_are_cut() -> None:
    """Fields of any number and size fit the host's line buffer."""
    line_of(record("m", fields={str(n): "y" * 100_000 for n in range(1000)}))


def test_unknown_fields_are_left_out() -> None:
    """And the others become keys of the line."""
    assert fields(gpu="GPU-a", alloc=None, used_mib=0) == {
        "fields": {"gpu": "GPU-a", "used_mib": 0}
    }


def test_fields_are_keys_of_their_own() -> None:
    """The fields of a record stand beside its message."""
    line = line_of(record("m", fields={"gpu": "GPU-a", "count": 2, "fine": True, "rate": 0.5}))
    assert (line["gpu"], line["count"], line["fine"], line["rate"]) == ("GPU-a", 2, True, "0.5")


@pytest.mark.parametrize("key", ["@message", "@level", "@timestamp", "@caller"])
def test_fields_cannot_take_the_hosts_keys(key: str) -> None:
    """A field cannot replace a key that the host reads."""
    line = line_of(record("m", fields={key: 5}))
    assert line["@message"] == "m"
    assert line.get(key) != 5


def test_arguments_that_do_not_fit_are_reported() -> None:
    """A log call whose arguments do not fit still says what it meant."""
    assert "%d GPUs" in line_of(record("%d GPUs", "many"))["@message"]


@given(message=ANY_TEXT, value=ANY_TEXT, key=ANY_TEXT)
def test_nothing_in_a_line_speaks_to_a_terminal(message: str, value: str, key: str) -> None:
    """No name forges a line or an escape sequence in the host's log, which shows text as it is."""
    line = line_of(record("%s", message, fields={key: value}))
    assert all(k.isprintable() and str(v).isprintable() for k, v in line.items())


def test_what_is_not_printable_is_spelled_out() -> None:
    """It can still be told what it was."""
    assert printable("a\r\x1b[31m\u202eb\0\udcff é") == r"a\r\x1b[31m\u202eb\x00\udcff é"


def test_line_ends_become_bars() -> None:
    """A message of several lines stays readable on one."""
    assert line_of(record("a\nb"))["@message"] == "a | b"


@pytest.mark.parametrize(
    ("created", "shown"),
    [
        (0.0, "1970-01-01T00:00:00.000000Z"),
        (1.5, "1970-01-01T00:00:01.500000Z"),
        (1.9999999, "1970-01-01T00:00:01.999999Z"),
        (1777777777.25, "2026-05-03T03:09:37.250000Z"),
    ],
)
def test_a_timestamp_is_utc_with_six_digits(created: float, shown: str) -> None:
    """A time stands in UTC, always with six digits of a second."""
    assert line_of(record("m", created=created))["@timestamp"] == shown


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (0, "trace"),
        (5, "trace"),
        (9, "trace"),
        (10, "debug"),
        (20, "info"),
        (25, "info"),
        (30, "warn"),
        (40, "error"),
        (50, "error"),
    ],
)
def test_levels_have_hclogs_words(number: int, word: str) -> None:
    """Each level of the standard library has the word that hclog has for it."""
    assert level_name(number) == word


@pytest.mark.parametrize("word", LEVEL_NAMES)
def test_level_words_and_numbers_agree(word: str) -> None:
    """The number of a level word has that word."""
    assert level_name(LEVEL_NAMES[word]) == word


@pytest.fixture
def root_as_before() -> Iterator[None]:
    """Puts the root logger back, whose handlers pytest needs."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_a_configured_logger_writes_each_record_once(root_as_before: None) -> None:
    """A record from the level on is written once, and one below not at all."""
    stream = io.StringIO()
    logger = configure("unit_test_of_logs", stream, logging.INFO)
    logger.info("seen")
    logger.debug("not seen")
    drain(logger, DEADLINE_S)
    assert [json.loads(line)["@message"] for line in stream.getvalue().splitlines()] == ["seen"]


def test_libraries_are_configured_too(root_as_before: None) -> None:
    """What a library logs under its own name is JSON, from warnings on."""
    stream = io.StringIO()
    logger = configure("unit_test_of_logs", stream)
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("trouble")
    drain(logger, DEADLINE_S)
    assert [json.loads(line)["@message"] for line in stream.getvalue().splitlines()] == ["trouble"]


class GoneStream(io.StringIO):
    """The standard error of a process whose host is gone."""

    def write(self, _text: str) -> int:
        """Fails as a pipe without a reader does."""
        raise BrokenPipeError


def test_a_log_call_survives_the_host() -> None:
    """Once nobody reads the log, a log call is silent and raises nothing."""
    handler = StderrHandler(GoneStream())
    handler.handle(record("m"))
    handler.drain(DEADLINE_S)


class Unsayable:
    """Something that cannot be made text."""

    def __str__(self) -> str:
        """Fails in a way that nobody expects."""
        raise KeyError("odd")


@pytest.mark.parametrize("size", [4000, 8000, 100_000])
def test_a_message_of_the_widest_characters_is_cut(size: int) -> None:
    """Characters that take twelve bytes each as JSON do not make a line too long."""
    assert "\U0001f600" in line_of(record("\U0001f600" * size))["@message"]


def test_the_widest_message_and_fields_are_cut_together() -> None:
    """Message, module and fields that are each as large as allowed make one line that fits."""
    wide = "\U0001f600" * 8000
    made = record(wide, fields={f"{n}{wide}": wide for n in range(50)})
    made.name = wide
    assert line_of(made)["@message"].startswith("\U0001f600")


@pytest.mark.parametrize("fields", [5, "text", [1, 2], object(), {"a": Unsayable()}])
def test_fields_that_are_none_are_left_out(fields: object) -> None:
    """Fields that are no mapping, or cannot be made text, do not cost the line its message."""
    assert line_of(record("said", fields=fields))["@message"] == "said"


@pytest.mark.parametrize("made", [record(Unsayable()), record("%s", Unsayable())])
def test_a_message_that_cannot_be_made_text_is_reported(made: logging.LogRecord) -> None:
    """A message that raises while it is made text says so in the line."""
    assert "cannot be formatted: KeyError" in line_of(made)["@message"]


def test_who_logs_never_waits_for_who_reads() -> None:
    """While nobody reads, the oldest lines are lost, and a line that is read later says how many."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream, os.fdopen(reader) as read:
        handler = StderrHandler(stream)
        handler.setFormatter(HclogFormatter())
        for number in range(3_000):  # a pipe holds 64 KiB, and the queue 1 Mi characters
            handler.handle(record(f"{number} {'x' * 1_000}"))
        handler.drain(0)
        lines: list[str] = []
        while not lines or "2999 x" not in lines[-1]:
            lines.append(read.readline())
        handler.drain(DEADLINE_S)
    told = [json.loads(line)["@message"] for line in lines if "log lines were lost" in line]
    lost = sum(int(message.split()[0]) for message in told)
    assert lost > 0
    assert lost + len(lines) - len(told) == 3_000
    assert "2998 x" in lines[-2]


def test_nothing_of_a_short_life_is_lost() -> None:
    """What was logged is written when it has been waited for."""
    stream = io.StringIO()
    handler = StderrHandler(stream)
    for number in range(100):
        handler.handle(record(str(number)))
    handler.drain(DEADLINE_S)
    assert len(stream.getvalue().splitlines()) == 100
