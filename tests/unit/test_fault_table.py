# SPDX-License-Identifier: MPL-2.0
"""The fault table in docs/health.md speaks of tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_row_of_the_fault_table_names_a_contract_test() -> None:
    """A row without a test is a promise that nobody keeps."""
    page = (ROOT / "docs" / "health.md").read_text()
    table = page.split("## What happens when")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    tests = "".join(p.read_text() for p in (ROOT / "tests" / "contract").glob("test_*.py"))
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert all(f"def {name}(" in tests for name in named), row
