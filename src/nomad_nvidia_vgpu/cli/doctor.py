# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu doctor`: what is wrong with this node, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from nomad_nvidia_vgpu.cli.agent import config as agent_config
from nomad_nvidia_vgpu.cli.config_options import agent_option
from nomad_nvidia_vgpu.cli.diagnosis.checks import CHECKS
from nomad_nvidia_vgpu.cli.diagnosis.diagnose import diagnosed
from nomad_nvidia_vgpu.cli.diagnosis.facts import gathered
from nomad_nvidia_vgpu.cli.diagnosis.finding import Finding, Level
from nomad_nvidia_vgpu.cli.diagnosis.node import Node
from nomad_nvidia_vgpu.cli.tables import style

_WORST_FIRST = (Level.ERROR, Level.WARNING, Level.OK)
_ANSWER = ("nomad", "groups")
"""The check whose good news is what most people ask for."""
_TITLES = {"gpus": "GPUs", "mps": "MPS", "selinux": "SELinux"}


@click.command()
@agent_option(
    click.Path(readable=False, path_type=Path),
    "What the agent is started with as -config: a file or a folder (repeatable).",
    default=[agent_config.USUAL],
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@click.option("--all", "everything", is_flag=True, help="What is ok too, each in its row.")
@click.option("--strict", is_flag=True, help="Exit status 1 for warnings too.")
@click.option(
    "--time-limit",
    "limit_s",
    type=click.FloatRange(1, 600),
    default=20.0,
    show_default=True,
    help="Seconds after which what hangs is given up; the whole takes three times that at most, and 20 s"
    " more where the agent has just started.",
)
def doctor(
    *, paths: Sequence[Path], as_json: bool, everything: bool, strict: bool, limit_s: float
) -> int:
    """Find out what is wrong with this node.

    Looks at the driver, GPUs, MPS, container runtimes and Nomad, and says what is wrong and what to
    do: errors first, then warnings, and in a line what is ok. Changes nothing. Run it as root, with NOMAD_TOKEN and NOMAD_CACERT as
    for the nomad command. Exit status 1 when there is an error.
    """
    findings = diagnosed(gathered(Node(), paths, limit_s), limit_s)
    if as_json:
        style.show_json(document(findings))
    else:
        _show(findings, everything=everything)
    if skipped := _skipped(findings):
        style.note(
            f"nvidia-vgpu: not checked, because there is nothing to check or something is missing: {', '.join(skipped)}"
        )
    counts = Counter(finding.level for finding in findings)
    errors, warnings = counts[Level.ERROR], counts[Level.WARNING]
    style.note(f"nvidia-vgpu: {_counted(errors, 'error')}, {_counted(warnings, 'warning')}")
    return int(bool(errors or (strict and warnings)))


def _show(findings: Sequence[Finding], *, everything: bool) -> None:
    """Problems first, the worst on top; what is ok is folded into a line, or has its rows too."""
    shown = [finding for finding in findings if everything or finding.level is not Level.OK]
    rows = [
        (
            _TITLES.get(finding.subject, finding.subject.capitalize()),
            finding.check,
            finding.level.value,
            finding.sentence,
            finding.remedy or None,
        )
        for finding in sorted(shown, key=lambda finding: _WORST_FIRST.index(finding.level))
    ]
    if rows:
        style.show(
            style.table("Findings", ("Subject", "Check", "Level", "Finding", "Remedy"), rows)
        )
    if everything:
        return
    troubled = {(finding.subject, finding.check) for finding in shown}
    well = [finding for finding in findings if (finding.subject, finding.check) not in troubled]
    if well:
        names = dict.fromkeys(f"{finding.subject}/{finding.check}" for finding in well)
        style.note(f"nvidia-vgpu: ok (--all says more): {', '.join(names)}")
    for finding in well:
        if (finding.subject, finding.check) == _ANSWER:
            style.note(f"nvidia-vgpu: {finding.sentence}")


def document(findings: Sequence[Finding]) -> dict[str, object]:
    """The findings for machines; the names in it stay."""
    counts = Counter(finding.level for finding in findings)
    return {
        "findings": [
            {**finding._asdict(), "level": finding.level.value, "remedy": finding.remedy or None}
            for finding in findings
        ],
        "skipped": _skipped(findings),
        "counts": {level.value: counts[level] for level in Level},
    }


def _skipped(findings: Sequence[Finding]) -> list[str]:
    """The checks that said nothing, as `subject/check`."""
    spoken = {(finding.subject, finding.check) for finding in findings}
    return [f"{c.subject}/{c.name}" for c in CHECKS if (c.subject, c.name) not in spoken]


def _counted(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'s' * (number != 1)}"
