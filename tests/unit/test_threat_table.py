# SPDX-License-Identifier: MPL-2.0
"""The threats in docs/security.md speak of tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_threat_names_tests_that_there_are() -> None:
    """A row without a test is a promise that nobody keeps."""
    page = (ROOT / "docs" / "security.md").read_text()
    section = page.split("\n## Threats")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if re.match(r"\| (?!threat \|)", line)]
    files = (path for layer in ("unit", "contract") for path in (ROOT / "tests" / layer).rglob("*"))
    tests = "".join(path.read_text() for path in files if re.fullmatch(r"test_\w+\.py", path.name))
    assert len(rows) > 25
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert [name for name in named if f"def {name}(" not in tests] == [], row
