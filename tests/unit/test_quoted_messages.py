# SPDX-License-Identifier: MPL-2.0
"""What docs/troubleshooting.md says that the plugin says, it does say.

A table whose first column is "the plugin says" quotes us, one of "Nomad says" quotes Nomad, whose
program `e2e/test_docs.py` searches; `…` is whatever stands there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import doc_pages
import pytest

from nomad_nvidia_vgpu.cli.diagnosis.checks import CHECKS

PAGE = doc_pages.ROOT / "docs" / "troubleshooting.md"
SOURCES = [doc_pages.ROOT / "src", doc_pages.ROOT / "scripts" / "onefile"]


def templates(path: Path) -> Iterator[str]:
    """The texts in a source file, with `…` for what is put into them."""
    if path.suffix != ".py":
        yield re.sub(r"@\w+@|\$\{[^}]*\}", "…", path.read_text())
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if (text := template(node)) is not None:
            yield text
        elif isinstance(node, ast.Call) and len(node.args) > 1:
            # The sentence and the remedy of an error.
            yield ": ".join(template(argument) or "…" for argument in node.args[:2])


def template(node: ast.AST) -> str | None:
    """The text that a literal makes; None if it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[sdgr]|\{\}", "…", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values)
    return None


@pytest.fixture(scope="module")
def said() -> str:
    """All texts of the program, one a line."""
    files = [p for root in SOURCES for p in root.rglob("*") if p.suffix in {".py", ".sh"}]
    return "\n".join(" ".join(text.split()) for path in files for text in templates(path))


@pytest.mark.parametrize("quote", doc_pages.quotes(PAGE, "the plugin"))
def test_the_plugin_says_what_is_quoted(said: str, quote: str) -> None:
    """An operator searches the page for the words in the log."""
    pattern = r"[^\n]*".join(re.escape(piece) for piece in re.split(r"\s*…\s*", quote))
    assert re.search(pattern, said)


def test_the_checks_that_it_names_exist() -> None:
    """The last column of a table that has a column "doctor"."""
    checks = {check.name for check in CHECKS}
    named = [row.cells[-1] for row in doc_pages.rows(PAGE) if row.header[-1] == "doctor"]
    assert len(named) > 50
    assert {name for cell in named for name in re.findall(r"`([^`]+)`", cell)} <= checks


def test_each_table_says_whose_words_it_has() -> None:
    """So that no quotation of ours goes unproven."""
    firsts = {row.header[0] for row in doc_pages.rows(PAGE)}
    assert firsts == {"the plugin says", "Nomad says", "CUDA says", "you see"}
