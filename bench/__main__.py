# SPDX-License-Identifier: MPL-2.0
"""`python -m bench`: measures, prints one table, and fails when a budget is missed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from bench import (
    cluster,
    cluster_look,
    forms,
    imports,
    memory,
    messages,
    placement,
    report,
    reserve,
    scrape,
    startup,
    usage,
)
from bench.environment import BrokenInstallationError, Installation, prepare
from bench.fake_driver import FakeMachine, NoFakeDriverError
from bench.figures import FULL, QUICK, Effort, Figure


def main() -> int:
    """Runs what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "what", nargs="?", choices=("all", "cluster", "forms", "imports"), default="all"
    )
    parser.add_argument(
        "--other",
        action="append",
        default=[],
        metavar="NAME=PROGRAM[,UNPACKED]",
        help="with `forms`: another form to compare with ours, and the folder that it fills",
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="fewer repetitions: a first look")
    extent.add_argument(
        "--write-docs", action="store_true", help="put the table into docs/performance.md"
    )
    asked = parser.parse_args()
    try:
        installation = prepare()
        if asked.what == "imports":
            imports.show(installation)
            return 0
        effort = QUICK if asked.quick else FULL
        if asked.what == "forms":
            return _forms(installation, effort, asked.other)
        if asked.what == "cluster":
            return _cluster(installation, write_docs=asked.write_docs)
        return _all(installation, effort, write_docs=asked.write_docs)
    except (BrokenInstallationError, report.UnfinishedError) as error:
        print(error, file=sys.stderr)
        return 1


def _forms(installation: Installation, effort: Effort, others: Sequence[str]) -> int:
    about = report.machine(installation)
    compared = [
        forms.in_venv(installation),
        forms.single_file(installation),
        *(forms.another(installation, told) for told in others),
    ]
    figures = forms.compared(installation, compared, effort)
    print(f"{report.described(about)}\n\n{report.table(figures)}")
    return 0


def _cluster(installation: Installation, *, write_docs: bool) -> int:
    about = {**report.machine(installation), "Nomad": cluster.version()}
    figures = cluster.measure(installation)
    print(f"{report.described(about)}\n\n{report.table(figures)}")
    if write_docs:
        report.write_docs(figures, about, "cluster")
        print(f"written: {report.DOCS}")
    return 0


def _all(installation: Installation, effort: Effort, *, write_docs: bool) -> int:
    about = report.machine(installation)
    figures = _measure(installation, effort)
    print(report.described(about))
    print(f"\n{report.table(figures)}\n")
    print(f"every sample: {report.write_result(figures, about)}")
    if write_docs:
        report.write_docs(figures, about)
        print(f"written: {report.DOCS}")
    missed = [figure.name for figure in figures if figure.verdict == "MISSED"]
    for name in missed:
        print(f"BUDGET MISSED: {name}", file=sys.stderr)
    return 1 if missed else 0


def _measure(installation: Installation, effort: Effort) -> list[Figure]:
    try:
        fake: FakeMachine | None = FakeMachine()
        reason = ""
    except NoFakeDriverError as error:
        fake, reason = None, str(error)

    def over_fake(
        name: str, work: Callable[[FakeMachine], list[Figure]]
    ) -> Callable[[], list[Figure]]:
        return lambda: work(fake) if fake else [Figure(name, None, "", note=reason)]

    steps: list[tuple[str, Callable[[], list[Figure]]]] = [
        ("start-up", lambda: startup.measure(installation, effort, fake)),
        (
            "NVML's start",
            over_fake(
                "NVML initialisations per agent start",
                lambda machine: [startup.nvml_starts(installation, machine)],
            ),
        ),
        ("memory", lambda: [memory.simulated(installation, effort)]),
        (
            "memory over the fake driver",
            over_fake(
                "resident memory, fake driver",
                lambda machine: [memory.over_nvml(installation, effort, machine)],
            ),
        ),
        ("growth", lambda: [memory.growth(installation, effort)]),
        ("fingerprint", lambda: messages.fingerprint(installation, effort)),
        ("stats", lambda: messages.stats(installation, effort)),
        (
            "a tick over the fake driver",
            over_fake(
                "a tick of stats, fake driver",
                lambda machine: messages.stats_over_driver(installation, effort, machine),
            ),
        ),
        (
            "NVML passes",
            over_fake(
                "NVML passes per interval",
                lambda machine: messages.nvml_passes(installation, effort, machine),
            ),
        ),
        ("who uses what", lambda: usage.attribution(effort)),
        ("Reserve", lambda: reserve.measure(installation, effort)),
        (
            "Reserve beside a GPU that hangs",
            over_fake(
                reserve.BESIDE_HANG,
                lambda machine: reserve.beside_hang(installation, effort, machine),
            ),
        ),
        (
            "Reserve beside hostile processes",
            over_fake(
                reserve.BESIDE_CLAIMS,
                lambda machine: reserve.beside_claims(installation, effort, machine),
            ),
        ),
        ("a large cluster", cluster_look.measure),
        ("scrapes", lambda: scrape.measure(installation, effort)),
        ("forms", lambda: forms.measure(installation, effort)),
        ("placement", lambda: placement.measure(installation, effort)),
    ]
    figures = []
    for title, work in steps:
        print(f"measuring {title} …", file=sys.stderr, flush=True)
        figures += work()
    return figures


if __name__ == "__main__":
    sys.exit(main())
