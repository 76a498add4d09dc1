# SPDX-License-Identifier: MPL-2.0
"""Log records as hclog's JSON, one line each, on standard error.

The host parses each line. It panics when `@message`, `@level` or `@timestamp` is not a string,
logs a line at debug when the timestamp has another form, and cuts or loses a line of 64 KiB.
"""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

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


if TYPE_CHECKING:
    _TextHandler = logging.StreamHandler[TextIO]
else:
    _TextHandler = logging.StreamHandler  # no generic before Python 3.11


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


class StderrHandler(_TextHandler):
    """Writes to standard error; once the host is gone (EPIPE), silently to nowhere."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the base's name
        """Swallows the failure: there is nobody left to tell."""


def configure(name: str, stream: TextIO, level: int = logging.INFO) -> logging.Logger:
    """The logger `name`, writing hclog JSON to `stream` from `level` on, and nothing else."""
    handler = StderrHandler(stream)
    handler.setFormatter(HclogFormatter())
    logger = logging.getLogger(name)
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    # grpc and other libraries log under their own names; they too must come out as JSON.
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    return logger


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
