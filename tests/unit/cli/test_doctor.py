# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu doctor`: its output and exit status; over a driver and MPS in `contract`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nomad_nvidia_vgpu.cli import doctor
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Finding, Level
from nomad_nvidia_vgpu.cli.main import run

GOOD = Finding("mps", "tools", Level.OK, "all is well")
ODD = Finding("mps", "daemons", Level.WARNING, "it is odd", "look")
BAD = Finding("gpus", "health", Level.ERROR, "it is lost", "reboot")


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the checks find: a list to fill."""
    findings: list[Finding] = []

    def diagnosed(_facts: Facts, _limit_s: float) -> list[Finding]:
        return findings

    def gathered(_node: object, _paths: Sequence[Path], _limit_s: float) -> Any:
        return None

    monkeypatch.setattr(doctor, "diagnosed", diagnosed)
    monkeypatch.setattr(doctor, "gathered", gathered)
    return findings


@pytest.mark.parametrize(
    ("findings", "flags", "status"),
    [
        ([GOOD], [], 0),
        ([GOOD, ODD], [], 0),
        ([GOOD, ODD], ["--strict"], 1),
        ([GOOD], ["--strict"], 0),
        ([ODD, BAD], [], 1),
        ([ODD, BAD], ["--json"], 1),
    ],
)
def test_errors_are_status_1_and_warnings_if_one_wishes(
    found: list[Finding], findings: list[Finding], flags: list[str], status: int
) -> None:
    """2 stays with wrong usage."""
    found += findings
    assert run(["doctor", *flags]) == status


def test_problems_come_first_and_what_is_ok_is_a_line(
    found: list[Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors, then warnings, each with its remedy in a row; the sum is beside it."""
    found += [GOOD, ODD, BAD, Finding("nomad", "groups", Level.OK, "Nomad offers all")]
    run(["doctor"])
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines() if " error " in line or " warning " in line]
    assert rows == [
        ["GPUs", "health", "error", "it", "is", "lost", "reboot"],
        ["MPS", "daemons", "warning", "it", "is", "odd", "look"],
    ]
    assert "all is well" not in out + err
    assert "ok (--all says more): mps/tools, nomad/groups\n" in err
    assert "nvidia-vgpu: Nomad offers all\n" in err
    assert "1 error, 1 warning" in err
    assert "driver/library" in err, "what was not looked at is named"


def test_all_shows_what_is_ok_in_rows(
    found: list[Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    """Below what is not."""
    found += [GOOD, BAD]
    run(["doctor", "--all"])
    out, err = capsys.readouterr()
    assert out.index("it is lost") < out.index("all is well")
    assert "ok (--all" not in err


def test_the_document_for_machines_keeps_its_names(
    found: list[Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts depend on it."""
    found += [GOOD, BAD]
    run(["doctor", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"findings", "skipped", "counts"}
    assert document["findings"] == [
        {
            "subject": "mps",
            "check": "tools",
            "level": "ok",
            "sentence": "all is well",
            "remedy": None,
        },
        {
            "subject": "gpus",
            "check": "health",
            "level": "error",
            "sentence": "it is lost",
            "remedy": "reboot",
        },
    ]
    assert document["counts"] == {"ok": 1, "warning": 0, "error": 1}
    assert "driver/library" in document["skipped"]
    assert "mps/tools" not in document["skipped"]


@pytest.mark.usefixtures("found")
def test_the_files_are_named_as_for_other_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """By either name of the option, which may be mixed and repeated."""
    asked: list[Path] = []
    monkeypatch.setattr(doctor, "gathered", lambda _node, paths, _limit_s: asked.extend(paths))
    run(["doctor", "--config", "/a", "--agent-config=/b", "--config=/c"])
    assert asked == [Path("/a"), Path("/b"), Path("/c")]


@pytest.mark.parametrize("flags", [["--time-limit", "0"], ["--time-limit", "x"], ["--vgpus", "2"]])
def test_wrong_usage_is_status_2(flags: list[str]) -> None:
    """As with every command."""
    assert run(["doctor", *flags]) == 2
