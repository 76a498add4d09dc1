# SPDX-License-Identifier: MPL-2.0
"""A node at one moment as a table and as a document: GPUs, their tasks, what is free."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from rich.table import Table
from rich.text import Text

from nomad_nvidia_vgpu.cli.tables.fitting import FittingTable
from nomad_nvidia_vgpu.cli.tables.policy import by_index
from nomad_nvidia_vgpu.cli.tables.style import MISSING, cell_text, records
from nomad_nvidia_vgpu.gpu.model import Gpu, GpuSample, Ratio
from nomad_nvidia_vgpu.sharing.plan import Plan, SharedGpu
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.state.usage import GpuUse, MpsServer, Share, StrayProcess, Task
from nomad_nvidia_vgpu.tasks.foresight import Forecast
from nomad_nvidia_vgpu.tasks.observer import Observation

_BAR_WIDTH = 12
_MIB_PER_GIB = 1024
_HIGH = 0.85
_SHOWN_PIDS = 6
_SHORT_ID = 8


_BAR = "bar"
_COLUMNS = (
    *("GPU, vGPUs", "Model, task", "PCI bus", "Alloc", "Procs", "Memory GiB", _BAR),
    *("GPU %", "°C", "W", "Health"),
)
_DISPENSABLE = ("PCI bus", _BAR, "W", "°C", "Alloc", "Procs")
"""What a narrow terminal does without, first the first."""


def node_table(
    seen: Observation, *, bars: bool, title: str | None = None, without: int = 0
) -> Table:
    """One row for each GPU, and below it one for each task on it and for what is nobody's.

    `without` is how many of the dispensable columns to leave out from the beginning.
    """
    narrower = partial(node_table, seen, bars=bars, title=title, without=without + 1)
    made = _table(title, bars=bars, narrow=narrower if without < len(_DISPENSABLE) else None)
    dropped = (*_DISPENSABLE[:without], *(() if bars else (_BAR,)))
    columns = [name for name in _COLUMNS if name not in dropped]
    for column in columns:
        right = column in ("Procs", "GPU %", "°C", "W")
        heading = "" if column == _BAR else column
        made.add_column(heading, justify="right" if right else "left", overflow="fold")
    for shared in _in_order(seen.plan):
        uuid = shared.gpu.uuid
        use = seen.usage.gpus.get(uuid)
        for row in _rows(shared, seen.samples.get(uuid), use):
            cells = dict(zip(_COLUMNS, row.cells(), strict=True))
            style = "bold" if row.is_gpu else ""
            made.add_row(*(cells[column] for column in columns), style=style)
    return made


def _in_order(plan: Plan) -> list[SharedGpu]:
    """The GPUs as the driver numbers them."""
    return sorted(plan.by_uuid().values(), key=lambda shared: by_index(shared.gpu))


def guard_table(forecasts: Sequence[Forecast], action: str, *, bars: bool) -> Table:
    """What the memory guard would do about each task."""
    title = f'What the memory guard would do (action = "{action}")'
    columns = ("GPU", "Task", "Uses MiB", "Budget", "Limit", "Above for", "Then")
    rows = [_forecast_row(forecast) for forecast in forecasts]
    made = _table(title, bars=bars, narrow=partial(records, title, columns, rows))
    for column in columns:
        right = column in ("Uses MiB", "Budget", "Limit", "Above for")
        made.add_column(column, justify="right" if right else "left", overflow="fold")
    for *cells, verdict in rows:
        over = cells[-1] is not None
        made.add_row(*map(cell_text, cells), cell_text(verdict, style="red" if over else ""))
    return made


def _forecast_row(forecast: Forecast) -> tuple[object, ...]:
    share = forecast.share
    over = None if forecast.over_s is None else f"{forecast.over_s:.0f} s"
    used = (share.used_mib, share.budget_mib, forecast.limit_mib, over)
    return (short_uuid(share.gpu_uuid), _task(share.task), *used, forecast.verdict)


def stray_table(seen: Observation, *, bars: bool) -> Table:
    """The GPU processes that belong to nobody, and why."""
    made = _table("Processes that belong to no task", bars=bars)
    for column in ("GPU", "Pid", "MiB", "Why"):
        made.add_column(column, overflow="fold")
    for uuid, use in seen.usage.gpus.items():
        for stray in use.strays:
            why = stray.reason
            made.add_row(
                cell_text(short_uuid(uuid)),
                cell_text(stray.pid),
                cell_text(stray.memory_mib),
                cell_text(why),
            )
    return made


def _table(title: str | None, *, bars: bool, narrow: Callable[[], Table] | None = None) -> Table:
    """Dense and without lines, because a terminal is narrow."""
    return FittingTable(
        narrow=narrow,
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold cyan" if bars else "",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )


def node_document(seen: Observation) -> dict[str, object]:
    """The same for machines; memory in MiB."""
    return {
        "taken_at": seen.taken_at.isoformat(),
        "gpus": [
            _gpu_document(shared, seen.samples.get(uuid), seen.usage.gpus.get(uuid))
            for shared in _in_order(seen.plan)
            for uuid in [shared.gpu.uuid]
        ],
        "problems": list(seen.problems),
    }


def guard_document(forecasts: Sequence[Forecast]) -> list[dict[str, object]]:
    """What the memory guard would do, for machines."""
    return [
        {
            "gpu": forecast.share.gpu_uuid,
            "allocation": forecast.share.task.allocation,
            "task": forecast.share.task.name,
            "used_mib": forecast.share.used_mib,
            "budget_mib": forecast.share.budget_mib,
            "limit_mib": forecast.limit_mib,
            "over_s": forecast.over_s,
            "would_end": [process.pid for process in forecast.victims],
            "verdict": forecast.verdict,
        }
        for forecast in forecasts
    ]


@dataclasses.dataclass(frozen=True)
class _Row:
    """One row; what is None shows as a dash, what is "" as nothing."""

    name: str
    what: str
    bus: str | None = ""
    alloc: str | None = ""
    processes: int | str | None = ""
    memory_mib: tuple[int | None, int | None] | None = None
    """Used, and out of what; None where it means nothing."""
    figures: tuple[object, object, object] = ("", "", "")
    health: str = ""
    is_gpu: bool = False

    def cells(self) -> Iterator[Text]:
        """As many as there are columns."""
        yield from (cell_text(cell) for cell in (self.name, self.what, self.bus))
        yield from (cell_text(cell) for cell in (self.alloc, self.processes))
        yield Text("" if self.memory_mib is None else _amount(*self.memory_mib))
        yield Text() if self.memory_mib is None else _bar(*self.memory_mib)
        yield from (cell_text(cell) for cell in self.figures)
        yield cell_text(self.health, style="" if self.health in ("", "healthy") else "red")


def _rows(shared: SharedGpu, sample: GpuSample | None, use: GpuUse | None) -> Iterator[_Row]:
    gpu = shared.gpu
    yield _Row(
        short_uuid(gpu.uuid)
        if gpu.driver_index is None
        else f"{gpu.driver_index} {short_uuid(gpu.uuid)}",
        gpu.model,
        bus=gpu.pci_bus_id,
        processes=use.processes if use else None,
        memory_mib=(_value(sample.memory_mib) if sample else None, gpu.memory_mib),
        figures=(
            sample.gpu_utilization_percent if sample else None,
            sample.temperature_c if sample else None,
            _value(sample.power_w) if sample else None,
        ),
        health="healthy" if shared.health.healthy else shared.health.reason,
        is_gpu=True,
    )
    if use is None:
        numbers = short_numbers([str(vgpu) for vgpu in shared.ids()])
        unknown = "the driver does not list its processes"
        yield _Row(f"  {numbers}", "simulated: used by no process" if gpu.simulated else unknown)
        return
    for share in sorted(use.shares, key=lambda share: _order(share.vgpu_ids)):
        yield _share_row(share)
    free = [vgpu_id for vgpu_id, vgpu in use.vgpus.items() if vgpu.share is None]
    if free:
        yield _Row(f"  {short_numbers(free)}", "not in use")
    if use.disputed:
        said = "claimed by two tasks at once"
        yield _Row(f"  {short_numbers(use.disputed)}", said, health="in dispute")
    if use.servers:
        yield _taskless_row("MPS server", use.servers, gpu)
    if use.strays:
        yield _taskless_row("no task", use.strays, gpu)


def _taskless_row(what: str, them: Sequence[MpsServer | StrayProcess], gpu: Gpu) -> _Row:
    memory = [process.memory_mib for process in them]
    known = None if None in memory else sum(mib for mib in memory if mib is not None)
    pids = [str(process.pid) for process in them]
    more = f" and {len(pids) - _SHOWN_PIDS} more" if len(pids) > _SHOWN_PIDS else ""
    said = f"{what}: pid {', '.join(pids[:_SHOWN_PIDS])}{more}"
    return _Row("  -", said, processes=len(them), memory_mib=(known, gpu.memory_mib))


def _share_row(share: Share) -> _Row:
    task = share.task
    note = share.doubt or ("" if task.certain else "by its environment alone")
    over = share.budget_mib is not None and (share.used_mib or 0) > share.budget_mib
    return _Row(
        f"  {short_numbers(share.vgpu_ids)}",
        _task(task),
        alloc=(task.allocation or task.container or "")[:_SHORT_ID] or None,
        processes=len(share.processes),
        memory_mib=(share.used_mib, share.budget_mib),
        health="over budget" if over else note,
    )


def _task(task: Task) -> str:
    named = [part for part in (task.job, task.group, task.name) if part]
    return "/".join(named) or task.label


def short_uuid(uuid: str) -> str:
    """As much of a UUID as tells the GPUs of a node apart: `GPU-27742447`."""
    prefix, dash, rest = uuid.partition("-")
    return f"{prefix}{dash}{rest[:_SHORT_ID]}"


def _order(ids: Sequence[str]) -> int:
    vgpu = VgpuId.parse(ids[0])
    return vgpu.number if vgpu else 0


def short_numbers(ids: Sequence[str]) -> str:
    """The numbers of vGPUs of one GPU, as ranges: `0-3,7`."""
    numbers = sorted(vgpu.number for text in ids if (vgpu := VgpuId.parse(text)))
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def _bar(used_mib: int | None, total_mib: int | None) -> Text:
    """How full: green, yellow when nearly, red when more than that."""
    if used_mib is None or not total_mib:
        return Text()
    ratio = used_mib / total_mib
    filled = min(_BAR_WIDTH, round(ratio * _BAR_WIDTH))
    if used_mib and not filled:
        filled = 1
    style = "red" if ratio > 1 else "yellow" if ratio >= _HIGH else "green"
    return Text("━" * filled, style=style) + Text("━" * (_BAR_WIDTH - filled), style="bright_black")


def _amount(used_mib: int | None, total_mib: int | None) -> str:
    def gib(mib: int | None) -> str:
        return MISSING if mib is None else f"{mib / _MIB_PER_GIB:.1f}"

    return f"{gib(used_mib)} / {gib(total_mib)}"


def _value(ratio: Ratio | None) -> int | None:
    return None if ratio is None else ratio.value


def _gpu_document(
    shared: SharedGpu, sample: GpuSample | None, use: GpuUse | None
) -> dict[str, object]:
    gpu = shared.gpu
    document: dict[str, object] = {
        "uuid": gpu.uuid,
        "pci_bus_id": gpu.pci_bus_id,
        "driver_index": gpu.driver_index,
        "model": gpu.model,
        "simulated": gpu.simulated,
        "healthy": shared.health.healthy,
        "health_description": shared.health.reason,
        "memory_total_mib": gpu.memory_mib,
        "memory_used_mib": _value(sample.memory_mib) if sample else None,
        "gpu_utilization_percent": sample.gpu_utilization_percent if sample else None,
        "temperature_c": sample.temperature_c if sample else None,
        "power_w": _value(sample.power_w) if sample else None,
        "vgpus": shared.published,
        "vgpu_memory_mib": shared.memory_mib(1),
    }
    if use is None:
        return {**document, "usage": None}
    return {
        **document,
        "usage": {
            "tasks": [_share_document(share) for share in use.shares],
            "vgpus": {
                vgpu_id: {"used_mib": vgpu.used_mib, "processes": vgpu.processes}
                for vgpu_id, vgpu in use.vgpus.items()
            },
            "disputed": list(use.disputed),
            "mps_servers": [server._asdict() for server in use.servers],
            "unattributed": [stray._asdict() for stray in use.strays],
        },
    }


def _share_document(share: Share) -> dict[str, object]:
    task = share.task
    return {
        "job": task.job,
        "group": task.group,
        "task": task.name,
        "allocation": task.allocation,
        "container": task.container,
        "certain": share.certain,
        "doubt": share.doubt,
        "vgpus": list(share.vgpu_ids),
        "used_mib": share.used_mib,
        "budget_mib": share.budget_mib,
        "processes": [{"pid": p.pid, "memory_mib": p.memory_mib} for p in share.processes],
    }
