# SPDX-License-Identifier: MPL-2.0
"""The moving figures of a GPU, from NVML, as `FIGURES` says. What cannot be is left out."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from nomad_nvidia_vgpu.gpu.figures import FIGURES, Query
from nomad_nvidia_vgpu.gpu.model import GpuSample, Ratio
from nomad_nvidia_vgpu.gpu.nvml.asking import Asker, plausible

_ANOTHER_FORM = {"nvmlMemory_v2"}
"""Constants that choose a newer form of a query: without them it has an older one."""


def take_sample(ask: Asker, physical: Any, own: Any, limit_w: int | None) -> GpuSample:
    """`physical` knows power and temperature, `own` (a MIG device, or the same) the memory."""
    answers: dict[tuple[str, tuple[str, ...]], Any] = {}
    found: dict[str, int | Ratio | None] = {}
    for figure in FIGURES:
        query = figure.query
        key = (query.function, query.constants)
        if key not in answers:
            answers[key] = _answer(ask, query, physical if figure.of_board else own)
        found[figure.field] = _value(query, answers[key])
    if isinstance(power_w := found["power_w"], int):
        found["power_w"] = Ratio(power_w, limit_w)
    return GpuSample(datetime.now(tz=timezone.utc), **found)


def _answer(ask: Asker, query: Query, handle: Any) -> Any:
    nvml = ask.nvml
    function = getattr(nvml, query.function)
    answer = ask(function, handle, *(getattr(nvml, name) for name in query.constants))
    if answer is None and _ANOTHER_FORM.intersection(query.constants):
        answer = ask(function, handle)
    return answer


def _value(query: Query, answer: Any) -> int | Ratio | None:
    if answer is None:
        return None
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
