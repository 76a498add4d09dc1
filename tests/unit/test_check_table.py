# SPDX-License-Identifier: MPL-2.0
"""The table of checks in docs/operations.md is the code's."""

from __future__ import annotations

from pathlib import Path

from nomad_nvidia_vgpu.cli.diagnosis.checks import CHECKS

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def test_each_check_has_its_row_with_the_words_of_its_function() -> None:
    """In the order of the output; what is an error and what a warning is for people to write."""
    section = PAGE.read_text().split("## Find out what is wrong")[1].split("\n## ")[0]
    table = section.split("| subject | check |")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [(row[0], row[1].strip("`"), row[2]) for row in rows] == [
        (check.subject, check.name, _promise(check.look.__doc__ or "")) for check in CHECKS
    ]
    assert all(row[3] or row[4] for row in rows)


def _promise(docstring: str) -> str:
    return docstring.splitlines()[0].removeprefix("Whether ").removesuffix(".")
