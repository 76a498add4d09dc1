# SPDX-License-Identifier: MPL-2.0
"""Writes the option table into docs/configuration.md, from the one declaration of the options."""

from __future__ import annotations

import sys
from pathlib import Path

from nomad_nvidia_vgpu.config.options import all_options

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
BEGIN = "<!-- begin option table: made by `make docs` -->"
END = "<!-- end option table -->"


def option_table() -> str:
    """The options as a Markdown table."""
    rows = ["| option | type | allowed | default | meaning |", "|---|---|---|---|---|"]
    for path, option in all_options():
        cells = (
            f"`{path}`",
            option.kind.hcl_type,
            option.kind.allowed,
            f"`{option.default_shown}`" if option.default_shown else "",
            option.doc,
        )
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows)


def with_table(page: str) -> str:
    """The page with the table between its markers replaced."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{option_table()}\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
    sys.exit(0)
