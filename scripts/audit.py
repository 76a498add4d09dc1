# SPDX-License-Identifier: MPL-2.0
"""`make audit`: asks a vulnerability service about every package that requirements/*.txt pin.

pip-audit asks; further options are given to it. An answer that is missing is no good answer.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from scripts.pins import REQUIREMENTS, Pin, pins

CLEAN, VULNERABLE, NOT_AUDITED = range(3)
"""Exit statuses."""

_REASON = re.compile(r"^(?:ERROR:pip_audit\._cli:|requests\.exceptions\.\w+: )(.*)", re.MULTILINE)


def main() -> int:
    """The worst that was found out, as exit status."""
    every = [pin for path in REQUIREMENTS.glob("*.txt") for pin in pins(path.read_text())]
    pinned = {(pin.name, pin.version): pin for pin in every}
    worst = CLEAN
    for some in without_doubles(pinned.values()):
        status = audit(some, sys.argv[1:])
        if status == NOT_AUDITED:
            return status
        worst = max(worst, status)
    if worst == CLEAN:
        print(f"{len(pinned)} pinned packages: no vulnerability is known")
    return worst


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


def audit(some: Sequence[Pin], options: Sequence[str]) -> int:
    """Says what is known about these; the exit status."""
    with tempfile.TemporaryDirectory() as directory:
        listed = Path(directory) / "requirements.txt"
        listed.write_text("".join(f"{pin.text}\n" for pin in some), encoding="ascii")
        command = (
            *(sys.executable, "-m", "pip_audit", "--strict", "--progress-spinner=off"),
            *("--disable-pip", "--require-hashes", f"--requirement={listed}"),
        )
        done = subprocess.run((*command, *options), capture_output=True, text=True, check=False)
    print(done.stdout, end="")
    if done.returncode == 0:
        return CLEAN
    if done.stdout:
        return VULNERABLE
    found = _REASON.search(done.stderr)
    reason = found[1] if found else "".join(done.stderr.strip().splitlines()[-1:])
    print(
        f"not audited, so nothing is known ({reason}): see that the vulnerability service can be "
        'reached, or ask another, such as make audit ARGS="--vulnerability-service osv"',
        file=sys.stderr,
    )
    return NOT_AUDITED


if __name__ == "__main__":
    sys.exit(main())
