# SPDX-License-Identifier: MPL-2.0
"""The tables in docs/health.md and docs/security.md speak of tests that there are."""

from __future__ import annotations

import re

import pytest
from doc_pages import ROOT

from scripts.evidence_table import PAGE, page, proofs

SECTIONS = {"health.md": ("## What happens when", 20), "security.md": ("\n## Threats", 25)}
"""Where the tables of a page begin, and how many rows there are at least."""


@pytest.mark.parametrize("name", SECTIONS)
def test_each_row_has_its_tests_and_no_proof_is_left_over(name: str) -> None:
    """A row without a test is a promise that nobody keeps."""
    begin, least = SECTIONS[name]
    section = (ROOT / "docs" / name).read_text().split(begin)[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    rows = [line.split("|")[1].strip() for line in lines]
    rows = [row for row in rows if row not in ("fault", "threat")]
    assert len(rows) > least
    assert rows == list(proofs()[name])
    assert all(proofs()[name].values())


def test_the_tests_exist() -> None:
    """Under the names that the page gives."""
    files = (path for layer in ("unit", "contract") for path in (ROOT / "tests" / layer).rglob("*"))
    tests = "".join(path.read_text() for path in files if re.fullmatch(r"test_\w+\.py", path.name))
    named = {test for rows in proofs().values() for of_row in rows.values() for test in of_row}
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []


def test_the_page_is_made_from_the_proofs() -> None:
    """`make docs` would change nothing."""
    assert PAGE.read_text() == page()
