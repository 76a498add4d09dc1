# SPDX-License-Identifier: MPL-2.0
"""`make audit`: asks a vulnerability service about every package that requirements/*.txt pin.

pip-audit asks; further options are given to it. An answer that is missing is no good answer.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scripts.pins import REQUIREMENTS, Pin, pins

CLEAN, VULNERABLE, NOT_AUDITED = range(3)
"""Exit statuses."""

_REASON = re.compile(r"^(?:ERROR:pip_audit\._cli:|requests\.exceptions\.\w+: )(.*)", re.MULTILINE)


def main() -> int:
    """The worst that was found out, as exit status."""
    every = [pin for path in REQUIREMENTS.glob("*.txt") for pin in pins(path.read_text())]
    pinned = {(pin.name, pin.version): pin for pin in every}
    found: list[Found] = []
    for some in without_doubles(pinned.values()):
        found.append(audit(some, sys.argv[1:]))
        if not found[-1].known:
            break  # the service says nothing of anything
    known = sum(each.known for each in found)
    for row in sorted(row for each in found for row in each.vulnerable):
        print(row)
    for sentence in sorted({sentence for each in found for sentence in each.unknown}):
        print(sentence, file=sys.stderr)
    if any(each.unknown for each in found):
        if known:
            print(f"{known} of {len(pinned)} pinned packages were audited", file=sys.stderr)
        return NOT_AUDITED
    if any(each.vulnerable for each in found):
        return VULNERABLE
    print(f"{len(pinned)} pinned packages: no vulnerability is known")
    return CLEAN


class Found(NamedTuple):
    """What a service says of some packages."""

    known: int = 0
    """How many it knows."""
    vulnerable: tuple[str, ...] = ()
    """A row for each vulnerability: package, version, its id, and the versions that are without it."""
    unknown: tuple[str, ...] = ()
    """A sentence for each package that it does not know, or why it says nothing."""

    def plus(self, other: Found) -> Found:
        """What it says of both."""
        return Found(
            self.known + other.known,
            self.vulnerable + other.vulnerable,
            self.unknown + other.unknown,
        )


def without_doubles(pinned: Iterable[Pin]) -> list[list[Pin]]:
    """The pins in lists that have one version of a package each.

    Which one is for the Python that runs here must not matter: all are given out.
    """
    lists: list[dict[str, Pin]] = []
    for pin in pinned:
        free = next((some for some in lists if pin.name not in some), None)
        if free is None:
            lists.append(free := {})
        free[pin.name] = pin
    return [list(some.values()) for some in lists]


def audit(some: Sequence[Pin], options: Sequence[str]) -> Found:
    """What is known about these, of as many of them as can be found out."""
    found = _asked(some, options)
    if found.known or len(some) == 1:
        return found
    # It fails as a whole: because of one of them, or of all.
    if _asked(some[:1], options).unknown and _asked(some[-1:], options).unknown:
        return found
    half = len(some) // 2
    return audit(some[:half], options).plus(audit(some[half:], options))


def _asked(some: Sequence[Pin], options: Sequence[str]) -> Found:
    with tempfile.TemporaryDirectory() as directory:
        listed = Path(directory) / "requirements.txt"
        listed.write_text("".join(f"{pin.text}\n" for pin in some), encoding="ascii")
        command = (
            *(sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off"),
            *("--disable-pip", "--require-hashes", f"--requirement={listed}"),
        )
        done = subprocess.run((*command, *options), capture_output=True, text=True, check=False)
    if done.stdout.strip():
        return read(json.loads(done.stdout))
    reason = _REASON.search(done.stderr)
    why = reason[1] if reason else "".join(done.stderr.strip().splitlines()[-1:])
    what = f"{some[0].name} {some[0].version}: " if len(some) == 1 else ""
    sentence = (
        f"{what}not audited, so nothing is known ({why}): see that the vulnerability service can be"
        ' reached, or ask another, such as make audit ARGS="--vulnerability-service osv"'
    )
    return Found(unknown=(sentence,))


def read(said: Mapping[str, Any]) -> Found:
    """What pip-audit says in its JSON."""
    rows, unknown, known = [], [], 0
    for package in said["dependencies"]:
        if "skip_reason" in package:
            unknown.append(f"{package['name']}: not audited: {package['skip_reason']}")
            continue
        known += 1
        for hole in package["vulns"]:
            fixed = ", ".join(hole["fix_versions"]) or "no version is without it"
            rows.append(f"{package['name']} {package['version']} {hole['id']} {fixed}")
    return Found(known, tuple(rows), tuple(unknown))


if __name__ == "__main__":
    sys.exit(main())
