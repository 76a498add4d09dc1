# SPDX-License-Identifier: MPL-2.0
"""What a check says, and what is shown of it."""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

_QUOTED = re.compile(r'"(?:\\.|[^"\\])*(?:"|$)|`[^`]*(?:`|$)')
"""One that does not end was cut off, so that all after it may belong to it."""
_BRACKETED = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}")
_WRONG_VALUE = re.compile(r"^(?P<what>.+?) must (?P<verb>be|name) (?P<allowed>.+?)(?:, got |$)")


class Level(str, Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and something is odd, unsafe or unknown."""
    ERROR = "error"
    """GPUs are not offered, cannot be used, or are sold twice."""


class Verdict(NamedTuple):
    """One thing that a check found."""

    level: Level
    sentence: str
    remedy: str = ""
    """What to do; empty only when all is well."""


class Finding(NamedTuple):
    """The same, with the place it has among all of them."""

    subject: str
    check: str
    """The name of the check, which stays the same over versions."""
    level: Level
    sentence: str
    remedy: str = ""


def ok(sentence: str) -> Verdict:
    """All is well."""
    return Verdict(Level.OK, sentence)


def warning(sentence: str, remedy: str) -> Verdict:
    """It works, but."""
    return Verdict(Level.WARNING, sentence, remedy)


def error(sentence: str, remedy: str) -> Verdict:
    """It does not work."""
    return Verdict(Level.ERROR, sentence, remedy)


def error_of(text: str) -> Verdict:
    """An error of this program, whose text is `what failed: what to do`.

    The last colon decides that is not in quotes or brackets, where values of somebody else stand.
    Of a wrong value what is allowed is the remedy.
    """
    bare = _bare(text)
    at = bare.rfind(": ")
    if at >= 0:
        return error(text[:at], text[at + 2 :])
    if wrong := _WRONG_VALUE.match(bare):
        what, allowed = (text[slice(*wrong.span(part))] for part in ("what", "allowed"))
        named = wrong["verb"] == "name"
        return error(text, f"let {what} name {allowed}" if named else f"make {what} {allowed}")
    return error(text, "mend that")


def _bare(text: str) -> str:
    """The text with blanks for all that is in quotes or brackets, as long as before."""
    bare = _QUOTED.sub(_blank, text)
    while (less := _BRACKETED.sub(_blank, bare)) != bare:
        bare = less
    return bare


def _blank(match: re.Match[str]) -> str:
    return "\0" * len(match[0])
