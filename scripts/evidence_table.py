# SPDX-License-Identifier: MPL-2.0
"""Writes docs/evidence.md from tests/proofs.json: which tests show what health and security say."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "evidence.md"
PROOFS = ROOT / "tests" / "proofs.json"

_HEAD = """# Evidence

Which tests show what the tables of [health](health.md) and [security](security.md) say. `make docs` writes this page
from `tests/proofs.json`. The tests run against fakes and other processes; none of them needs a GPU.
"""


def proofs() -> dict[str, dict[str, list[str]]]:
    """By page and first cell of a row: the names of the tests."""
    found: dict[str, dict[str, list[str]]] = json.loads(PROOFS.read_text(encoding="utf-8"))
    return found


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for name, rows in proofs().items():
        title = name.removesuffix(".md").capitalize()
        parts.append(f"\n## {title}\n\n| row | tests |\n|---|---|\n")
        parts += [
            f"| {row} | {', '.join(f'`{test}`' for test in tests)} |\n"
            for row, tests in rows.items()
        ]
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
