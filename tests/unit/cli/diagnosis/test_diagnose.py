# SPDX-License-Identifier: MPL-2.0
"""Making all checks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from nomad_nvidia_vgpu.cli.diagnosis.checks import Check
from nomad_nvidia_vgpu.cli.diagnosis.diagnose import diagnosed
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Finding, Level, Verdict, ok
from unit.cli.diagnosis.nodes import facts

PATIENCE_S = 100.0


def good(_facts: Facts) -> Iterator[Verdict]:
    """Says so."""
    yield ok("fine")


def silent(_facts: Facts) -> Iterator[Verdict]:
    """Says nothing."""
    return iter(())


def broken(_facts: Facts) -> Iterator[Verdict]:
    """Fails after its first word."""
    yield ok("fine")
    raise KeyError("oops")


def hanging(_facts: Facts) -> Iterator[Verdict]:
    """Never ends."""
    time.sleep(PATIENCE_S * 100)
    yield ok("never")


def test_findings_come_in_the_order_of_the_table(tmp_path: Path) -> None:
    """With the place of their check; one that cannot judge says nothing."""
    checks = (Check("b", "one", good), Check("b", "none", silent), Check("a", "two", good))
    assert diagnosed(facts(tmp_path), PATIENCE_S, checks) == [
        Finding("b", "one", Level.OK, "fine"),
        Finding("a", "two", Level.OK, "fine"),
    ]


def test_a_check_that_fails_is_a_finding(tmp_path: Path) -> None:
    """No traceback, and the others are made."""
    checks = (Check("a", "broken", broken), Check("a", "good", good))
    found = diagnosed(facts(tmp_path), PATIENCE_S, checks)
    assert [(finding.check, finding.level) for finding in found] == [
        ("broken", Level.WARNING),
        ("good", Level.OK),
    ]
    assert "KeyError: 'oops'" in found[0].sentence
    assert found[0].remedy


def test_a_check_that_hangs_is_a_finding(tmp_path: Path) -> None:
    """It is given up after the limit, and the others are made."""
    checks = (Check("a", "hanging", hanging), Check("a", "good", good))
    found = diagnosed(facts(tmp_path), 1.0, checks)
    assert (found[0].check, found[0].level) == ("hanging", Level.ERROR)
    assert found[0].remedy
    assert found[1] == Finding("a", "good", Level.OK, "fine") or found[1].level is Level.ERROR
