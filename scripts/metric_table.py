# SPDX-License-Identifier: MPL-2.0
"""Writes the table of metrics into docs/metrics.md, from the one declaration of the metrics."""

from __future__ import annotations

import sys
from pathlib import Path

from nomad_nvidia_vgpu.metrics.families import FAMILIES

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
BEGIN = "<!-- begin metric table: made by `make docs` -->"
END = "<!-- end metric table -->"


def metric_table() -> str:
    """The metrics as a Markdown table."""
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        rows.append(f"| `{family.name}` | {family.kind} | {labels} | {family.doc} |")
    return "\n".join(rows)


def with_table(page: str) -> str:
    """The page with the table between its markers replaced."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{metric_table()}\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
    sys.exit(0)
