# SPDX-License-Identifier: MPL-2.0
"""Every pin is asked about; the rest is tested with a service, in `contract`."""

from __future__ import annotations

from scripts.audit import without_doubles
from scripts.pins import Pin


def test_no_version_is_dropped_and_no_list_has_two() -> None:
    """pip-audit would look at one version only, that of the Python it runs under."""
    a, b1, b2, b3 = (Pin(name, v, "", ()) for name, v in ("a1", "b1", "b2", "b3"))
    assert without_doubles([a, b1, b2, b3]) == [[a, b1], [b2], [b3]]
    assert without_doubles([]) == []
