# SPDX-License-Identifier: MPL-2.0
"""What requirements/*.txt pin: packages, versions and hashes, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"

_PIN = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>[^\s;]+)"
    r"(?: ; (?P<marker>[^\\]+?))?"
    r"(?P<hashes>(?:\s+--hash=sha256:[0-9a-f]{64})+)"
)


class Pin(NamedTuple):
    """One package of a requirements file."""

    name: str
    version: str
    marker: str
    """When it is needed; empty: always."""
    hashes: tuple[str, ...]
    """Of the files that may be installed, such as sha256:…"""

    @property
    def text(self) -> str:
        """The requirement without its marker: pip would judge that by the Python it runs under."""
        return " ".join((f"{self.name}=={self.version}", *(f"--hash={h}" for h in self.hashes)))


def pins(text: str) -> Iterator[Pin]:
    """What the text of a requirements file pins; ValueError at a line that is no pin."""
    for line in text.replace("\\\n", "").splitlines():
        match = _PIN.fullmatch(line)
        if match is None:
            raise ValueError(f"no package, version and hashes, or more than those: {line!r}")
        hashes = tuple(word.removeprefix("--hash=") for word in match["hashes"].split())
        yield Pin(match["name"], match["version"], match["marker"] or "", hashes)
