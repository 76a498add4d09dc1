# SPDX-License-Identifier: MPL-2.0
"""Requirements files pin packages, versions and hashes, and say nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.pins import REQUIREMENTS, Pin, pins

AA, BB = (f"sha256:{letters * 32}" for letters in ("aa", "bb"))


def test_pins_are_read_with_their_markers_and_hashes() -> None:
    """A marker is kept apart: it is judged for the Python that the pin is for."""
    text = (
        f"a-b==1.0 \\\n    --hash={AA} \\\n    --hash={BB}\n"
        f"c==2 ; python_full_version < '3.11' \\\n    --hash={AA}\n"
    )
    first, second = pins(text)
    assert first == Pin("a-b", "1.0", "", (AA, BB))
    assert first.text == f"a-b==1.0 --hash={AA} --hash={BB}"
    assert second == Pin("c", "2", "python_full_version < '3.11'", (AA,))
    assert second.text == f"c==2 --hash={AA}"


@pytest.mark.parametrize(
    "line",
    [
        "a==1",
        f"a>=1 --hash={AA}",
        f"a==1 --hash={AA[:-1]}",
        f"a==1 --hash=md5:{'a' * 32}",
        f"a @ https://example.org/a.whl --hash={AA}",
        f"a==1 --hash={AA} --index-url=https://example.org",
        "--find-links /wheels",
        "-e .",
        "# a==1",
    ],
)
def test_anything_else_is_refused(line: str) -> None:
    """No line is dropped, no package comes without a hash, and none from an address."""
    with pytest.raises(ValueError, match="no package, version and hashes, or more"):
        list(pins(f"{line}\n"))


@pytest.mark.parametrize("path", sorted(REQUIREMENTS.iterdir()), ids=lambda path: path.name)
def test_every_line_of_ours_is_a_pin(path: Path) -> None:
    """In each file there is, and each has one version of a package for one Python."""
    text = path.read_text(encoding="ascii")
    found = list(pins(text))
    assert len(found) == text.count("==") - text.count("== '")
    assert len({(pin.name, pin.marker) for pin in found}) == len(found)


def test_what_is_tested_is_what_is_given_out() -> None:
    """The environment of the tests has all that run.txt has, from the same files."""
    run, dev = (set(pins((REQUIREMENTS / name).read_text())) for name in ("run.txt", "dev.txt"))
    assert run < dev
