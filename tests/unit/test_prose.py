# SPDX-License-Identifier: MPL-2.0
"""Words that docs/style.md keeps out of pages, messages, docstrings and comments."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_pages import CHANGELOG, PAGES, ROOT

WORDS = {
    r"\b(mend|mends|mended|mending)\b": "fix",
    r"\banew\b": "again",
    r"\b(whom|whoever|whomever|whosoever)\b": "name the person or thing",
    r"(^|[.:;] |\| |\"\"\"|- )(?-i:Those)\b": "name the things",
    r"\btext that is none\b": "invalid UTF-8",
    r"\bfor want of\b": "because … is missing",
    r"\bbut for\b": "except for",
    r", for (it|they|that|nobody|nothing|one|all) (is|are|has|have|may|can|must)\b": "because",
}
"""What must not be written, and what to write."""

SHOWS_THE_WORDS = "style.md"
SOURCES = [
    path
    for folder in ("src", "scripts", "bench")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "generated" not in path.parts
]


def prose(path: Path) -> Iterator[str]:
    """Gives the comments and strings of a source file, or the lines of a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE).splitlines()
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield token.string


@pytest.mark.parametrize(
    "path", [*PAGES, CHANGELOG, *SOURCES], ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_words_are_everyday_ones(path: Path) -> None:
    """Each with the word to take instead; the page of the rules shows them on purpose."""
    if path.name == SHOWS_THE_WORDS:
        return
    found = [
        f"{match[0]!r}: write {instead!r}"
        for text in prose(path)
        for words, instead in WORDS.items()
        for match in re.finditer(words, text, re.IGNORECASE)
    ]
    assert found == []


@pytest.mark.parametrize("words", WORDS)
def test_the_page_of_the_rules_shows_that_each_is_found(words: str) -> None:
    """The list finds what it is meant to find."""
    examples = (
        "mend plugin_dir, made anew, whomever, text that is none, for want of it, all but for one, stays, for it is. "
        "Those go on"
    )
    assert re.search(words, examples)
