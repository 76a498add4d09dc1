# SPDX-License-Identifier: MPL-2.0
"""The table, for people, for machines and for docs/performance.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from bench.environment import BUILD, ROOT, Installation
from bench.figures import Figure

DOCS = ROOT / "docs" / "performance.md"
_BEGIN = "<!-- bench{what}:begin: written by `python -m bench{what} --write-docs`, not by hand -->"
_END = "<!-- bench{what}:end -->"
_VERSIONS = """
import platform, grpc, google.protobuf
print(platform.python_version(), grpc.__version__, google.protobuf.__version__)
"""
_HEAD = ("figure", "measured", "budget", "", "note")


class UnfinishedError(Exception):
    """The documentation cannot be written; the text says why."""


def machine(installation: Installation) -> dict[str, str]:
    """What the figures were measured on."""
    versions = subprocess.run(
        [
            str(installation.python),
            "-c",
            _VERSIONS,
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return {
        "date": datetime.now(tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": _first("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(_first('/proc/meminfo', 'MemTotal').split()[0]) / 2**20:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "Python": versions[0],
        "grpcio": versions[1],
        "protobuf": versions[2],
        "sources": installation.state[:12],
    }


def table(figures: Sequence[Figure]) -> str:
    """All figures, as Markdown that is aligned for a terminal."""
    rows = [_HEAD, *(_row(figure) for figure in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    rule = tuple("-" * width for width in widths)
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in (rows[0], rule, *rows[1:])
    )


def described(about: Mapping[str, str]) -> str:
    """The machine in one line."""
    return ", ".join(f"{name} {value}" for name, value in about.items())


def write_result(figures: Sequence[Figure], about: Mapping[str, str]) -> Path:
    """Everything, each single sample included, as JSON."""
    documents = [
        {
            "name": f.name,
            "measured": f.measured,
            "unit": f.unit,
            "budget": f.budget,
            "verdict": f.verdict,
            "note": f.note,
            "samples": f.samples,
        }
        for f in figures
    ]
    path = BUILD / "result.json"
    path.write_text(
        json.dumps({"machine": dict(about), "figures": documents}, indent=1, ensure_ascii=False),
        encoding="utf-8",
    )
    return path


def write_docs(figures: Sequence[Figure], about: Mapping[str, str], what: str = "") -> None:
    """Puts the table into the documentation; UnfinishedError if a figure is missing.

    `what` is the word after `python -m bench`, which has a table of its own.
    """
    words = {"what": f" {what}" if what else ""}
    begin, end = _BEGIN.format(**words), _END.format(**words)
    if missing := [f.name for f in figures if f.measured is None]:
        raise UnfinishedError(f"not measured: {', '.join(missing)}")
    before, found, rest = DOCS.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise UnfinishedError(f"{DOCS} has lost the marks between which the table belongs")
    shown = f"{begin}\n\n{table(figures)}\n\n{described(about)}\n\n{end}"
    DOCS.write_text(f"{before}{shown}{after}", encoding="utf-8")


def _row(figure: Figure) -> tuple[str, ...]:
    measured = "" if figure.measured is None else _number(figure.measured, figure.unit)
    sign = "" if figure.exact else "≤ "
    budget = "" if figure.budget is None else f"{sign}{figure.budget:g} {figure.unit}".strip()
    return (figure.name, measured, budget, figure.verdict, figure.note)


def _number(value: float, unit: str) -> str:
    digits = 0 if value == int(value) else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit}".strip()


def _first(path: str, key: str) -> str:
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
