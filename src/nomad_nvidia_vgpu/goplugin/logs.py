# SPDX-License-Identifier: MPL-2.0
"""Log records as hclog's JSON, one line each, on standard error.

The host parses each line. It panics when `@message`, `@level` or `@timestamp` is not a string,
logs a line at debug when the timestamp has another form, and cuts or loses a line of 64 KiB
(docs/internals/nomad.md#logging).
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import logging
import threading
import time
import traceback
from collections.abc import Mapping
from typing import TextIO

_LEVELS = (
    (logging.ERROR, "error"),
    (logging.WARNING, "warn"),
    (logging.INFO, "info"),
    (logging.DEBUG, "debug"),
)
LEVEL_NAMES = {
    "trace": 5,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
"""hclog's level words and the standard library's numbers."""

_MAX_LINE = 60_000  # bytes, below the host's 64 KiB
_MAX_TEXT = 4_000  # characters, each at most 12 bytes as JSON
_MAX_FIELD = 500
_LAST_LINES_S = 0.5  # how long an end waits for who reads
_MOST_WAITING = 1 << 20  # characters in all lines that are not written yet


def level_name(levelno: int) -> str:
    """The word that hclog has for a level of the standard library."""
    for threshold, name in _LEVELS:
        if levelno >= threshold:
            return name
    return "trace"


def printable(text: str) -> str:
    """The text with all that is not printable spelled out, as in a string of Python.

    The host writes what it is told as it is: a line end would begin a line of its own, an escape
    sequence would speak to the terminal of a reader of the log.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def fields(**known: int | str | None) -> dict[str, dict[str, int | str]]:
    """The `extra` of a log call: what the host shows as keys of their own; None is left out."""
    return {"fields": {name: value for name, value in known.items() if value is not None}}


class HclogFormatter(logging.Formatter):
    """Formats a record as one JSON line; `fields` of the call become keys of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON without its newline, whatever the record holds."""
        import json  # noqa: PLC0415  two of three launches log nothing

        line: dict[str, str | int | bool] = {
            "@level": level_name(record.levelno),
            "@message": _shorten(printable(_message(record).replace("\n", " | ")), _MAX_TEXT),
            "@module": _shorten(printable(record.name), _MAX_FIELD),
            "@timestamp": _timestamp(record.created),
        }
        with contextlib.suppress(Exception):  # a field's own __str__ may do anything
            full = {**line, **_fields(getattr(record, "fields", None) or {})}
            if len(text := json.dumps(full)) <= _MAX_LINE:
                return text
        return json.dumps(line)


class StderrHandler(logging.Handler):
    """Writes to standard error in a thread of its own: who logs never waits for who reads.

    While nobody reads, the oldest lines are dropped, and a line says how many. Once the host is
    gone (EPIPE), all goes silently to nowhere.
    """

    def __init__(self, stream: TextIO) -> None:
        """Starts its thread with the first line: two of three launches log nothing."""
        super().__init__()
        self._stream = stream
        self._changed = threading.Condition()  # guards what follows
        self._lines: collections.deque[str] = collections.deque()
        self._characters = 0
        self._lost = 0
        self._writes = False
        """Whether the thread is writing a line."""
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Puts the line in the queue."""
        line = self.format(record)
        with self._changed:
            self._lines.append(line)
            self._characters += len(line)
            while self._characters > _MOST_WAITING and len(self._lines) > 1:
                self._characters -= len(self._lines.popleft())
                self._lost += 1
            if self._thread is None:
                thread = threading.Thread(target=self._write_all, name="log", daemon=True)
                with contextlib.suppress(
                    RuntimeError
                ):  # no memory for a thread: with the next line
                    thread.start()
                    self._thread = thread
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> None:
        """Waits until all is written, no longer than that: for before the process ends."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._thread is None or not (self._lines or self._writes), timeout_s
            )

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._writes = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._lines))
                lines = [self._lines.popleft()]
                self._characters -= len(lines[0])
                lost, self._lost, self._writes = self._lost, 0, True
            if lost:
                lines.insert(0, self.format(_lost_lines(lost)))
            with contextlib.suppress(OSError, ValueError):  # nobody is left to tell
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()


def _lost_lines(number: int) -> logging.LogRecord:
    text = "%d log lines were lost: the program that started the plugin did not read its standard error"
    return logging.LogRecord(__name__, logging.WARNING, "", 0, text, (number,), None)


def configure(name: str, stream: TextIO, level: int = logging.INFO) -> logging.Logger:
    """The logger `name`, writing hclog JSON to `stream` from `level` on, and nothing else."""
    handler = StderrHandler(stream)
    handler.setFormatter(HclogFormatter())
    atexit.register(handler.drain, _LAST_LINES_S)
    logger = logging.getLogger(name)
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    # grpc and other libraries log under their own names; they too must come out as JSON.
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    return logger


def drain(logger: logging.Logger, timeout_s: float) -> None:
    """Waits until all that was logged is written, no longer than that."""
    for handler in logger.handlers:
        if isinstance(handler, StderrHandler):
            handler.drain(timeout_s)


def _timestamp(created: float) -> str:
    whole, fraction = divmod(created, 1)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{stamp}.{int(fraction * 1_000_000):06d}Z"


def _message(record: logging.LogRecord) -> str:
    try:
        message = record.getMessage()
    except Exception as error:  # noqa: BLE001  a log call must never take the plugin down
        message = f"{record.msg if isinstance(record.msg, str) else 'a log message'}"
        message += f" (cannot be formatted: {type(error).__name__})"
    if record.exc_info and record.exc_info[1] is not None:
        trace = "".join(traceback.format_exception(record.exc_info[1])).strip()
        message = f"{message}: {trace}"
    return message


def _fields(fields: Mapping[object, object]) -> dict[str, str | int | bool]:
    return {
        _shorten(printable(str(key)), 64): value
        if isinstance(value, (bool, int))
        else _shorten(printable(str(value)), _MAX_FIELD)
        for key, value in fields.items()
        if not str(key).startswith("@")
    }


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
