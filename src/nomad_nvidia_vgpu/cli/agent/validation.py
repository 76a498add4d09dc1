# SPDX-License-Identifier: MPL-2.0
"""What Nomad itself says of an agent's files: `nomad config validate`, which it has from 1.3.0 on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_LIMIT_S = 10.0
_REFUSED = 1
_UNREADABLE = "Error loading"
"""Nomad cannot read a file; whatever else it lacks may be said on the agent's command line."""
_NOISE = ("WARNING:", "Configuration is invalid", "error occurred", "errors occurred")
_MAX_CHARS = 400


class Refusal(NamedTuple):
    """What Nomad has against the files."""

    text: str
    """Its own words."""
    unreadable: bool
    """Whether it cannot read them; else it misses something in them."""


def refusal(program: str, paths: Sequence[Path]) -> Refusal | None:
    """What Nomad has against these files and folders; None: nothing, or this Nomad cannot say.

    For files that our own reader takes: of others Nomad quotes what may be a token or a key.
    """
    done = _run([program, "config", "validate", *map(str, paths)])
    if done is None:
        return None
    said = (done.stderr + b"\n" + done.stdout).decode("utf-8", "replace")
    if done.returncode != _REFUSED or "Usage:" in said:
        return None  # an older one has no such command
    lines = (line.strip().removeprefix("* ") for line in said.splitlines())
    text = "; ".join(line for line in lines if line and not any(word in line for word in _NOISE))
    printable = "".join(char if char.isprintable() else " " for char in text)
    return Refusal(printable[:_MAX_CHARS], _UNREADABLE in said)


def version_of(program: str) -> str:
    """What Nomad says of its version; nothing if it cannot be asked."""
    done = _run([program, "version"])
    return done.stdout.decode("utf-8", "replace") if done is not None else ""


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[bytes] | None:
    try:
        return subprocess.run(  # noqa: S603  a program of this node's PATH
            command,
            env={"PATH": os.environ.get("PATH", os.defpath)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
