# SPDX-License-Identifier: MPL-2.0
"""What pip-audit is asked, and how it is understood; with the real one in `contract`."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from scripts import audit
from scripts.audit import without_doubles
from scripts.pins import Pin


def test_no_version_is_dropped_and_no_list_has_two() -> None:
    """pip-audit would look at one version only, that of the Python it runs under."""
    a, b1, b2, b3 = (Pin(name[0], name, "", ()) for name in ("a1", "b1", "b2", "b3"))
    assert without_doubles([a, b1, b2, b3]) == [[a, b1], [b2], [b3]]
    assert without_doubles([]) == []


def pin(name: str) -> Pin:
    """Gives a pin."""
    return Pin(name, "1.0", "", ())


def test_of_each_package_it_is_told_what_can_be_known() -> None:
    """A vulnerability of one, and that another is unknown, beside one that is well."""
    hole = {"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"], "aliases": [], "description": ""}
    found = audit.read(
        {
            "dependencies": [
                {"name": "well", "version": "1.0", "vulns": []},
                {"name": "holed", "version": "1.0", "vulns": [hole]},
                {"name": "strange", "skip_reason": "it is not on the index"},
            ]
        }
    )
    assert found.known == 2
    assert found.vulnerable == ("holed 1.0 PYSEC-1 1.1, 2.0",)
    assert found.unknown == ("strange: not audited: it is not on the index",)


def test_a_package_that_fails_all_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are told of; where all fail, it is the service, and is said once."""

    def asked(some: Sequence[Pin], _options: Sequence[str]) -> audit.Found:
        if "bad" in [each.name for each in some] or gone:
            return audit.Found(unknown=(f"{len(some)} fail",))
        return audit.Found(known=len(some))

    monkeypatch.setattr(audit, "_asked", asked)
    gone = False
    pins = [pin(name) for name in ("a", "b", "bad", "c", "d")]
    assert audit.audit(pins, ()) == audit.Found(known=4, unknown=("1 fail",))
    gone = True
    assert audit.audit(pins, ()) == audit.Found(unknown=("5 fail",))
