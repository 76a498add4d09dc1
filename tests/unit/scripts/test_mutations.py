# SPDX-License-Identifier: MPL-2.0
"""The list of protections that `make mutations` takes out is of this checkout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scripts.mutations import LISTED, ROOT, Mutation, mutations


@pytest.mark.parametrize("mutation", mutations(), ids=lambda m: m.without)
def test_each_can_be_taken_out(mutation: Mutation, tmp_path: Path) -> None:
    """What is to be replaced is there once, is Python afterwards, and the tests exist."""
    for file in mutation.edits:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    mutation.apply(tmp_path)
    for file in mutation.edits:
        changed = (tmp_path / file).read_text()
        assert changed != (ROOT / file).read_text()
        compile(changed, file, "exec")
    assert mutation.tests
    for test in mutation.tests:
        file, _, name = test.partition("::")
        assert not name or f"def {name.partition('[')[0]}(" in (ROOT / file).read_text()


def test_a_text_that_is_not_there_is_no_protection(tmp_path: Path) -> None:
    """So that the list cannot outlive what it speaks of."""
    (tmp_path / "a.py").write_text("twice\ntwice\n")
    for text in ("never", "twice"):
        with pytest.raises(AssertionError, match=text):
            Mutation("", {"a.py": [(text, "")]}, []).apply(tmp_path)
    assert LISTED.exists()
