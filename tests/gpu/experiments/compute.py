# SPDX-License-Identifier: MPL-2.0
"""Whether the thread percentage bounds the SMs, and what sharing does to the throughput."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from gpu.clients import Client, Refused, Silent
from gpu.lab import READY_S, Lab
from nomad_nvidia_vgpu.sharing.mps.layout import PERCENTAGE_ENV

_VGPUS = 4
_RUN_S = 2.0
_WITHIN_S = 45.0
_TOLERANCE = 1.1
"""Of a bound: SMs are given in twos, clocks move, blocks do not fill the last wave."""
_TASKS = (1, 2, 4, 8, 16)
_SMALL_PART = 16
"""A small task has a block for every so many SMs of the GPU."""
_SMALL_LAUNCH_S = 0.001


def together(
    lab: Lab, environments: Sequence[Mapping[str, str]], *words: object
) -> list[float | str]:
    """Tera multiply-adds per second of clients that begin together, or why one has none."""
    clients: list[Client] = []
    try:
        clients += [lab.client(e, "saturate", "--wait", *words) for e in environments]
        waiting: list[Client | str] = []
        for client in clients:
            try:
                client.until("waiting", _WITHIN_S)
                waiting.append(client)
            except (Refused, Silent) as error:
                waiting.append(str(error))
        for client in clients:
            client.tell("go")
        return [answer if isinstance(answer, str) else _rate(answer) for answer in waiting]
    finally:
        for client in clients:
            client.kill()


def _rate(client: Client) -> float | str:
    try:
        return float(client.result(_WITHIN_S)["tera_fma_per_s"])
    except (Refused, Silent) as error:
        return str(error)


def _total(rates: Sequence[float | str]) -> float:
    """The sum; ValueError when one has none."""
    failures = [rate for rate in rates if isinstance(rate, str)]
    if failures:
        raise ValueError(f"{len(failures)} of {len(rates)} failed: {failures[0]}")
    return sum(rate for rate in rates if not isinstance(rate, str))


def percentage(lab: Lab) -> None:
    """A saturating kernel with 1, 2, 3 and 4 of 4 vGPUs."""
    words = ("--seconds", _RUN_S)
    whole = None
    with lab.part("The saturating kernel without MPS"):
        got = lab.run(lab.plain(), "saturate", *words, within_s=_WITHIN_S)
        lab.answer(
            "A saturating kernel without MPS",
            f"{got['tera_fma_per_s']} tera FMA/s ({got['launches']} kernels in {got['seconds']} s)",
        )
    plugin = lab.plugin(_VGPUS, lab.root())
    for granted in (4, 3, 2, 1):
        with lab.part(f"{granted} of {_VGPUS} vGPUs"):
            environment = plugin.task(granted)
            sms = lab.opens(environment)["sms"]
            got = lab.run(environment, "saturate", *words, within_s=_WITHIN_S)
            rate = float(got["tera_fma_per_s"])
            whole = rate if granted == _VGPUS else whole
            part = rate / whole if whole else None
            lab.answer(
                f"{environment.get(PERCENTAGE_ENV)} % of the SMs: throughput of a saturating"
                " kernel",
                f"{rate} tera FMA/s, {'unknown' if part is None else f'{part:.1%}'} of that with"
                f" {_VGPUS} of {_VGPUS}; CUDA shows {sms} SMs",
                promised=None
                if part is None or granted == _VGPUS
                else part <= granted / _VGPUS * _TOLERANCE,
            )
    for grants in ((1, 3), (1, 1, 1, 1)):
        with lab.part(f"Tasks with {grants} vGPUs at once"):
            rates = together(lab, [plugin.task(granted) for granted in grants], *words)
            shown = ", ".join(
                f"{k} of {_VGPUS}: " + (r if isinstance(r, str) else f"{r / (whole or r):.1%}")
                for k, r in zip(grants, rates, strict=True)
            )
            lab.answer(f"Tasks with {grants} vGPUs saturate at once", shown)


def throughput(lab: Lab) -> None:
    """Equal small tasks by time-slicing and by MPS, against one task alone."""
    ready = lab.opens(lab.plain())
    blocks = max(1, ready["sms"] // _SMALL_PART)
    alone = lab.run(
        lab.plain(),
        *("saturate", "--seconds", _RUN_S, "--blocks", blocks, "--launch-s", _SMALL_LAUNCH_S),
        within_s=READY_S,
    )
    small = ("--seconds", _RUN_S, "--blocks", blocks, "--rounds", alone["rounds"])
    undivided = float(alone["tera_fma_per_s"])
    lab.answer(
        "One small task alone, without MPS",
        f"{alone['launches_per_s']} kernels/s of {blocks} blocks of 256 threads, {undivided} tera FMA/s",
    )
    sliced = _row(lab, [[lab.plain()] * count for count in _TASKS], small, undivided)
    shares: list[str] = ["no MPS"] * len(_TASKS)
    unlimited = list(shares)
    with lab.part("Equal small tasks under MPS"):
        plugin = lab.plugin(max(_TASKS), lab.root())
        task = plugin.task(1)
        shares = _row(lab, [[task] * count for count in _TASKS], small, undivided)
        free = {n: v for n, v in task.items() if n != PERCENTAGE_ENV}
        unlimited = _row(lab, [[free] * count for count in _TASKS], small, undivided)
    lab.table(
        "Throughput of equal small tasks, all together, as a multiple of one task alone",
        (
            "tasks at once",
            "time-slicing",
            f"MPS, each task 1 of {max(_TASKS)} vGPUs",
            "MPS, no limit of SMs",
        ),
        list(zip(_TASKS, sliced, shares, unlimited, strict=True)),
    )


def _row(
    lab: Lab,
    rows: Sequence[Sequence[Mapping[str, str]]],
    words: Sequence[object],
    undivided: float,
) -> list[str]:
    shown = []
    for environments in rows:
        try:
            rates = together(lab, environments, *words)
            total = _total(rates)
            least = min(rate for rate in rates if not isinstance(rate, str))
            spread = least / (total / len(rates))
            shown.append(f"{total / undivided:.2f} (slowest task at {spread:.0%} of the mean)")
        except (ValueError, OSError) as error:
            shown.append(str(error))
    return shown


def saturated_sharing(lab: Lab) -> None:
    """What tasks that fill the GPU lose by time-slicing, which the small ones do not show."""
    alone = statistics.fmean(
        float(lab.run(lab.plain(), "saturate", "--seconds", 1, within_s=READY_S)["tera_fma_per_s"])
        for _ in range(2)
    )
    rows = []
    for count in (2, 4):
        with lab.part(f"{count} saturating tasks by time-slicing"):
            rates = together(lab, [lab.plain()] * count, "--seconds", _RUN_S)
            rows.append(f"{count} tasks {_total(rates) / alone:.2f} of one alone")
    lab.answer("Saturating tasks by time-slicing, all together", "; ".join(rows))
