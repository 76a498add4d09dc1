# SPDX-License-Identifier: MPL-2.0
"""`make mutations`: takes protections out of a copy of this checkout, one at a time, and runs their tests.

A test that does not fail then proves nothing. `tests/mutations.json` lists the protections; words in
`ARGS` choose those whose name or file has one of them. Takes minutes, and root for some of the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LISTED = ROOT / "tests/mutations.json"

_TESTS_FAILED = 1
"""pytest's exit status; others mean that they could not be run."""


class Mutation(NamedTuple):
    """One protection, how it is taken out, and each test that then fails by itself."""

    without: str
    edits: Mapping[str, Sequence[tuple[str, str]]]
    """By file: what is replaced there, and by what. Where two layers protect, both are taken out."""
    tests: Sequence[str]

    def apply(self, root: Path) -> None:
        """Takes it out; AssertionError if a text is not there once."""
        for file, pairs in self.edits.items():
            text = (root / file).read_text(encoding="utf-8")
            for before, after in pairs:
                assert text.count(before) == 1, f"{file} has not once: {before}"
                text = text.replace(before, after)
            (root / file).write_text(text, encoding="utf-8")


def mutations() -> list[Mutation]:
    """All that are listed."""
    return [Mutation(**entry) for entry in json.loads(LISTED.read_text(encoding="utf-8"))]


def _copy(root: Path) -> None:
    """Copies what git knows of, and what is not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    for name in (".venv", "build/audit"):
        if (ROOT / name).exists():
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).symlink_to(ROOT / name)


def _status(root: Path, test: str) -> int:
    """How a run of one test ends; it meets the copy, not what is installed."""
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", test]
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, _TESTS_FAILED) or "skipped" in done.stdout.splitlines()[-1]:
        print(done.stdout[-2000:], done.stderr[-2000:])
        return -1
    return done.returncode


def _findings(chosen: Sequence[Mutation]) -> Iterator[str]:
    """One sentence for each test that is not as it should be."""
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        root = Path(folder)
        _copy(root)
        for mutation in chosen:
            for test in mutation.tests:
                _restore(root, mutation)
                if _status(root, test) != 0:
                    yield f"{test} does not pass as it is"
                    continue
                mutation.apply(root)
                failed = _status(root, test) == _TESTS_FAILED
                print(
                    f"{'fails' if failed else 'PASSES'} without: {mutation.without}: {test}",
                    flush=True,
                )
                if not failed:
                    yield f"{test} does not fail without: {mutation.without}"
            _restore(root, mutation)


def _restore(root: Path, mutation: Mutation) -> None:
    for file in mutation.edits:
        shutil.copy2(ROOT / file, root / file)


def main(words: Sequence[str]) -> int:
    """1 if a test proves nothing."""
    chosen = [
        m for m in mutations() if not words or any(w in m.without + str([*m.edits]) for w in words)
    ]
    found = list(_findings(chosen))
    print("\n".join(found) or f"{sum(len(m.tests) for m in chosen)} tests fail as they should")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
