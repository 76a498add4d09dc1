# SPDX-License-Identifier: MPL-2.0
"""What pip-audit is asked, and how it is understood; with the real one in `contract`."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.audit import NOT_AUDITED, audit, without_doubles
from scripts.pins import Pin

UNKNOWN_PACKAGE = """\
#!/bin/sh
case "$*" in *--strict*) echo "ERROR:pip_audit._cli:a: not found" >&2; exit 1 ;; esac
echo "No known vulnerabilities found" >&2
"""
"""What pip-audit does when the service does not have a package."""


def test_no_version_is_dropped_and_no_list_has_two() -> None:
    """pip-audit would look at one version only, that of the Python it runs under."""
    a, b1, b2, b3 = (Pin(name[0], name, "", ()) for name in ("a1", "b1", "b2", "b3"))
    assert without_doubles([a, b1, b2, b3]) == [[a, b1], [b2], [b3]]
    assert without_doubles([]) == []


def test_a_package_that_is_not_audited_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip-audit passes over it unless it is told to be strict."""
    program = tmp_path / "python"
    program.write_text(UNKNOWN_PACKAGE)
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    assert audit([Pin("a", "1", "", ())], []) == NOT_AUDITED
    assert "not audited, so nothing is known (a: not found)" in capsys.readouterr().err
