# SPDX-License-Identifier: MPL-2.0
"""What the experiments saw, as a section for docs/gpu-validation.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from gpu.experiment import EXPERIMENTS
from nomad_nvidia_vgpu import __version__

QUESTIONS = {
    1: "UUID or ordinal in `set_default_device_pinned_mem_limit`: accepted and echoed?",
    2: "Does an entry for an invisible GPU drop every limit?",
    3: "Does EXCLUSIVE_PROCESS stop a client with a wrong pipe directory, and with which error?",
    4: "Memory and utilisation of MPS clients through NVML: which call lists them?",
    5: "Is a shared /dev/shm needed between daemon and containers?",
    6: "FAULT: how long until it is over, and does `terminate_client` help?",
    7: "Which modes of MPS and which limits does this driver have?",
    8: "Field 230 on a healthy GPU, and its return code",
    9: "Overhead of a context under a limit; smallest share that works",
}


class Result(NamedTuple):
    """One experiment."""

    name: str
    end: str
    """`done`, or how else it ended."""
    seconds: float
    records: list[dict[str, Any]]
    """What it wrote: answers, and tables."""


def write(out: Path, results: Sequence[Result], changed: str) -> int:
    """Writes `report.md` and `raw.json`; 0 if all was answered as promised, else 1."""
    broken = [r for r in _answers(results) if r["promised"] is False]
    unanswered = [r for r in _answers(results) if r.get("failed")]
    unfinished = [result for result in results if result.end != "done"]
    (out / "raw.json").write_text(json.dumps([r._asdict() for r in results], indent=1))
    text = "\n".join(_lines(results, changed))
    (out / "report.md").write_text(f"{text}\n")
    print(f"\n{text}\n")
    print(
        f"{len(broken)} promises broken, {len(unanswered)} questions not answered,"
        f" {len(unfinished)} experiments not finished; settings of the GPU:"
        f" {changed or 'as before'}"
    )
    return int(bool(broken or unanswered or unfinished or changed))


def write_nothing(out: Path, reason: str) -> None:
    """The report of a machine without a GPU."""
    (out / "report.md").write_text(f"Nothing was measured: {reason}\n")


def _lines(results: Sequence[Result], changed: str) -> Iterator[str]:
    today = datetime.now(tz=timezone.utc).date()
    yield f"### {today}: `make gpu-test`, version {__version__}"
    settings = changed or "compute mode, persistence mode and MIG mode are as before"
    yield f"\nSettings of the GPU: {settings}."
    for heading in dict.fromkeys(EXPERIMENTS[r.name].heading for r in results):
        yield f"\n#### {heading}\n"
        mine = [r for r in results if EXPERIMENTS[r.name].heading == heading]
        rows = [(a["question"], a["seen"], _verdict(a)) for a in _answers(mine) if not a["g"]]
        if rows:
            yield from _table(("question", "seen", "as promised"), rows)
        for record in (r for result in mine for r in result.records if "table" in r):
            yield f"\n{record['table']}:\n"
            yield from _table(record["header"], record["rows"])
    yield "\n#### The nine questions\n"
    yield from _table(("", "question", "seen", "as promised"), list(_nine(results)))
    ends = [(r.name, r.end, f"{r.seconds:.0f}") for r in results]
    yield "\n#### Experiments\n"
    yield from _table(("experiment", "end", "seconds"), ends)


def _nine(results: Sequence[Result]) -> Iterator[tuple[object, ...]]:
    for number, question in QUESTIONS.items():
        found = [a for a in _answers(results) if a["g"] == number]
        if not found:
            yield number, question, "not answered", ""
        for index, answer in enumerate(found):
            asked = f"{answer['question']} " if len(found) > 1 else ""
            first = (number, question) if index == 0 else ("", "")
            yield *first, f"{asked}{answer['seen']}", _verdict(answer)


def _answers(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    return (r for result in results for r in result.records if "question" in r)


def _verdict(answer: dict[str, Any]) -> str:
    return {None: "", True: "yes", False: "**no**"}[answer["promised"]]


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"


def _cell(cell: object) -> str:
    return " ".join(str(cell).split()).replace("|", "\\|")
