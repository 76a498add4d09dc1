# SPDX-License-Identifier: MPL-2.0
"""The moving figures of a GPU, from NVML, as `FIGURES` says. What cannot be is left out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from types import ModuleType
from typing import Any, NamedTuple

from nomad_nvidia_vgpu.gpu.figures import FIGURES, Figure, Query
from nomad_nvidia_vgpu.gpu.model import GpuSample, Ratio
from nomad_nvidia_vgpu.gpu.nvml.asking import Asker, plausible

_ANOTHER_FORM = {"nvmlMemory_v2"}
"""Constants that choose a newer form of a query: without them it has an older one."""


class _Call(NamedTuple):
    """One call into the driver, and the figures that come of its answer."""

    function: Callable[..., Any]
    constants: tuple[Any, ...]
    of_board: bool
    has_older_form: bool
    figures: list[Figure]


class Sampler:
    """Asks for the moving figures; what to call is looked up once."""

    def __init__(self, nvml: ModuleType) -> None:
        """Calls nothing."""
        calls: dict[tuple[str, tuple[str, ...]], _Call] = {}
        for figure in FIGURES:
            query = figure.query
            call = calls.setdefault(
                (query.function, query.constants),
                _Call(
                    getattr(nvml, query.function),
                    tuple(getattr(nvml, name) for name in query.constants),
                    figure.of_board,
                    not _ANOTHER_FORM.isdisjoint(query.constants),
                    [],
                ),
            )
            call.figures.append(figure)
        self._calls = tuple(calls.values())

    def take(self, ask: Asker, physical: Any, own: Any, limit_w: int | None) -> GpuSample:
        """`physical` knows power and temperature, `own` (a MIG device, or the same) the memory."""
        found: dict[str, int | Ratio | None] = {}
        for call in self._calls:
            handle = physical if call.of_board else own
            answer = ask(call.function, handle, *call.constants)
            if answer is None and call.has_older_form:
                answer = ask(call.function, handle)
            if answer is not None:
                for figure in call.figures:
                    found[figure.field] = _value(figure.query, answer)
        if isinstance(power_w := found.get("power_w"), int):
            found["power_w"] = Ratio(power_w, limit_w)
        return GpuSample(datetime.now(tz=timezone.utc), **found)


def _value(query: Query, answer: Any) -> int | Ratio | None:
    value = _part(answer, query.part)
    if query.total is None:
        number = plausible(value, query.most)
        return None if number is None else number // query.per_unit
    total = plausible(_part(answer, query.total), query.most, least=1)
    used = plausible(value, total or 0)
    if total is None or used is None:
        return None
    return Ratio(used // query.per_unit, total // query.per_unit)


def _part(answer: Any, part: str | int | None) -> Any:
    if part is None:
        return answer
    return getattr(answer, part) if isinstance(part, str) else answer[part]
