# SPDX-License-Identifier: MPL-2.0
"""Verdicts and findings."""

from __future__ import annotations

from nomad_nvidia_vgpu.cli.diagnosis.finding import Level, error, error_of, ok, warning


def test_only_what_is_well_needs_no_remedy() -> None:
    """Each of the three has its level."""
    assert ok("a") == (Level.OK, "a", "")
    assert warning("a", "b") == (Level.WARNING, "a", "b")
    assert error("a", "b") == (Level.ERROR, "a", "b")


def test_an_error_text_of_this_program_ends_with_its_remedy() -> None:
    """What comes after the last colon is what to do; a text without one still gets a remedy."""
    assert error_of("GPU-a: lost: drain it") == error("GPU-a: lost", "drain it")
    assert error_of("it is odd").remedy
