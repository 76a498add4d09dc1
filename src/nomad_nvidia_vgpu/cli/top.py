# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu top`: which task uses how much of which GPU, live."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from nomad_nvidia_vgpu.cli.agent import config as agent_config
from nomad_nvidia_vgpu.cli.config_options import (
    ConfiguredCommand,
    config_options,
    node_config,
)
from nomad_nvidia_vgpu.cli.running_view import RunningView, running_view
from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.cli.tables.top import (
    guard_document,
    guard_table,
    node_document,
    node_table,
    stray_table,
)
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import ConfigError, DriverError
from nomad_nvidia_vgpu.gpu.answers import NO_ANSWER
from nomad_nvidia_vgpu.gpu.source import source_of
from nomad_nvidia_vgpu.host.proc import Proc
from nomad_nvidia_vgpu.tasks.foresight import Foresight
from nomad_nvidia_vgpu.tasks.observer import Observation, Observer

PATIENCE_S = 30.0
"""How long a look may take before the driver counts as hanging."""

_NOBODY = "no task is known to use a GPU, so the memory guard would do nothing"
_NOT_ROOT = (
    "the environments of other users' processes cannot be read, so their tasks are not known: run"
    " it as root"
)
_OTHER_PIDS = (
    "the driver numbers processes as the host does, and this is another PID namespace: run it on"
    " the host to see tasks for certain"
)


@click.command(cls=ConfiguredCommand)
@config_options
@click.option("--once", is_flag=True, help="One look, and the end.")
@click.option("--json", "as_json", is_flag=True, help="For machines: one document for each look.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.1, max=3600.0),
    default=2.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option(
    "--explain", is_flag=True, help="What the memory guard would do about each task, and why."
)
def top(
    *,
    paths: Sequence[Path],
    once: bool,
    as_json: bool,
    interval_s: float,
    explain: bool,
    **flags: Any,
) -> int:
    """Show live which task uses how much of which GPU, until Ctrl-C.

    Reads the driver and /proc itself, as the plugin does, and changes nothing. Needs root to see
    the tasks of others. Says at its start which GPUs the plugin that runs holds back, by Nomad's API;
    with --once that is exit status 1.
    """
    if math.isnan(interval_s):
        raise click.BadParameter("must be a number of seconds, got nan", param_hint="--interval")
    config = node_config(paths, flags).checked()
    if not config.configured:
        raise ConfigError([_unconfigured(config, paths)])
    # What the attribution logs is in the tables; on a terminal it would tear them.
    logging.getLogger("nomad_nvidia_vgpu").addHandler(logging.NullHandler())
    proc = Proc()
    observer = Observer(config, source_of(config.simulate), proc)
    foresight = Foresight(config.memory_guard) if explain else None
    live = style.live() if not (once or as_json) else contextlib.nullcontext()
    told: set[str] = set()
    view = running_view(paths)
    unproven = view.unproven(config)
    held: dict[str, str] = {}
    try:
        with live as screen:
            for seen in _looks(observer, None if once else interval_s):
                if as_json:
                    _show_json(seen, foresight, indent=2 if once else None)
                elif screen is None:
                    style.show(*_tables(seen, foresight, config))
                else:
                    screen.show(*_tables(seen, foresight, config))
                held = view.among(seen.plan.by_uuid())
                for sentence in (
                    *_notes(seen, proc, explain=explain),
                    *((unproven,) if unproven else ()),
                    *(_held(view, held) if seen.plan.groups else ()),
                ):
                    if sentence not in told:
                        told.add(sentence)
                        style.note(f"nvidia-vgpu: {sentence}")
    except KeyboardInterrupt:
        if once:
            raise
        # Else it is how one leaves it.
    return int(once and bool(held))


def _held(view: RunningView, held: Mapping[str, str]) -> Iterator[str]:
    """Whose view it is, and the GPUs that the plugin which runs holds back."""
    yield view.source
    for uuid, reason in held.items():
        yield f"{uuid} is held back by the plugin that runs: {reason}"


def _unconfigured(config: PluginConfig, paths: Sequence[Path]) -> str:
    if not config.enabled:
        return "enabled is false, so no task has a share: give --enabled true to look all the same"
    unknown = "top must know how the GPUs are divided, but vgpus"
    if paths:
        where = ", ".join(map(str, paths))
        return f"{unknown} is not set in {where}: write it there, or give --vgpus"
    return (
        f"{unknown} is not known from {agent_config.USUAL}: give --config what the agent is started"
        " with as -config, or give --vgpus"
    )


def _looks(observer: Observer, interval_s: float | None) -> Iterator[Observation]:
    """One look, or with an interval one after the other."""
    while True:
        yield _within(PATIENCE_S, observer.look)
        if interval_s is None:
            return
        time.sleep(interval_s)


def _tables(seen: Observation, foresight: Foresight | None, config: PluginConfig) -> list[Table]:
    terminal = sys.stdout.isatty()
    shown = [node_table(seen, bars=terminal)]
    if foresight is not None:
        action = config.memory_guard.action
        forecasts = foresight.forecasts(seen.usage)
        if forecasts:
            shown.append(guard_table(forecasts, action, bars=terminal))
        if seen.usage.strays:
            shown.append(stray_table(seen, bars=terminal))
    return shown


def _show_json(seen: Observation, foresight: Foresight | None, indent: int | None) -> None:
    document = node_document(seen)
    if foresight is not None:
        document["memory_guard"] = guard_document(foresight.forecasts(seen.usage))
    click.echo(json.dumps(document, indent=indent))


def _notes(seen: Observation, proc: Proc, *, explain: bool) -> list[str]:
    """What an operator must know to read the tables right."""
    notes = list(seen.problems)
    if not seen.plan.groups and not notes:
        notes.append("this node has no GPU that would be published")
    if explain and not seen.usage.shares:
        notes.append(_NOBODY)
    if any(use.strays for use in seen.usage.gpus.values()) and os.geteuid() != 0:
        notes.append(_NOT_ROOT)
    if seen.usage.gpus and not proc.sees_host_pids():
        notes.append(_OTHER_PIDS)
    return notes


def _within(patience_s: float, look: Callable[[], Observation]) -> Observation:
    """What `look` finds; DriverError when it takes too long, because its call may never return."""
    found: list[Observation] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.append(look())
        except BaseException as error:  # noqa: BLE001  raised again in the waiting thread
            failed.append(error)

    thread = threading.Thread(target=work, name="look", daemon=True)
    thread.start()
    thread.join(patience_s)
    if failed:
        raise failed[0]
    if not found:
        raise DriverError(NO_ANSWER)
    return found[0]
