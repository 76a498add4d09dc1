# SPDX-License-Identifier: MPL-2.0
"""What a check says, and what is shown of it."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from nomad_nvidia_vgpu.errors import Problem


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


def error_of(problem: Problem) -> Verdict:
    """What an error of this program says."""
    return error(problem.sentence, problem.remedy or "see the log of the Nomad agent")


def warning_of(problem: Problem) -> Verdict:
    """The same, where it works all the same."""
    return error_of(problem)._replace(level=Level.WARNING)
