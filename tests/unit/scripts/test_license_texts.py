# SPDX-License-Identifier: MPL-2.0
"""Where the text of a licence is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.license_texts import license_texts
from scripts.onefile import build

HEADER = "#####\n# Redistribution and use are permitted.\n#\n# AS IS\n#####\n\nimport os\n"


def wheel(tmp_path: Path, **files: str) -> Path:
    """Gives a wheel with these files; two underscores stand for a point."""
    made = tmp_path / "x-1-py3-none-any.whl"
    tree = {name.replace("__", "."): text.encode() for name, text in files.items()}
    made.write_bytes(build.archive({"x-1.dist-info/METADATA": b"", **tree}))
    return made


@pytest.mark.parametrize("name", ["LICENSE", "licenses/COPYING.txt", "license.md", "NOTICE"])
def test_files_of_a_wheel_are_its_licence(tmp_path: Path, name: str) -> None:
    """Under whichever of the usual names, and where."""
    found = license_texts(wheel(tmp_path, **{f"x-1.dist-info/{name}": "as is", "x__py": HEADER}))
    assert found == {f"x-1.dist-info/{name}": "as is"}


def test_a_module_may_begin_with_it(tmp_path: Path) -> None:
    """The text is then to be written to a file."""
    found = license_texts(wheel(tmp_path, x__py=HEADER))
    assert list(found) == ["x-1.dist-info/licenses/LICENSE"]
    (text,) = found.values()
    assert text.strip() == "Redistribution and use are permitted.\n\nAS IS"


def test_a_wheel_without_one_is_not_given_out(tmp_path: Path) -> None:
    """A licence that is only named is not handed on."""
    with pytest.raises(AssertionError, match="has no text of its licence"):
        license_texts(wheel(tmp_path, x__py="# a comment\n"))
