# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu launch`: the plugin under the built-in host, as Nomad would run it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from nomad_nvidia_vgpu.cli.config_options import (
    ConfiguredCommand,
    given_config,
    named_config_options,
)
from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.cli.tables.daemons import mps_tables
from nomad_nvidia_vgpu.cli.tables.groups import group_documents, group_tables, vgpu_table
from nomad_nvidia_vgpu.cli.tables.reservation import (
    reservation_document,
    reservation_table,
    sampled,
)
from nomad_nvidia_vgpu.config.declaring import LABELLED
from nomad_nvidia_vgpu.config.options import PluginConfig, all_options
from nomad_nvidia_vgpu.cookie import COOKIE_KEY, COOKIE_VALUE, PROTOCOL_VERSION
from nomad_nvidia_vgpu.device.fingerprint import DeviceGroup
from nomad_nvidia_vgpu.goplugin.handshake import Handshake
from nomad_nvidia_vgpu.goplugin.host import LogLine
from nomad_nvidia_vgpu.rpc.client import Host, InstanceStats, Refused, StatsOfGroups
from nomad_nvidia_vgpu.sharing.mps.view import daemon_views

HANDSHAKE = Handshake(COOKIE_KEY, COOKIE_VALUE, PROTOCOL_VERSION)

_FIRST_FINGERPRINT_S = 60.0
_SIGNALLED = 128
"""What a shell adds to the signal that ended a program."""
_SECRET = re.compile(
    r"(NOMAD|VAULT|CONSUL|AWS|AZURE|GOOGLE)_.*|.*(TOKEN|SECRET|PASSW|CREDENTIAL|_KEY|AUTH).*",
    re.IGNORECASE,
)
"""The names of variables that look like a person's secrets."""
_DAEMONS_STAY = (
    "nvidia-vgpu: the MPS daemons stay, as they do for tasks under Nomad: nvidia-vgpu release with the"
    " same options ends them"
)


@click.command(cls=ConfiguredCommand, short_help="Start the plugin as Nomad would.")
@named_config_options
@click.option(
    "--plugin",
    "plugin_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Another plugin executable than this program.",
)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.01, 3600),
    default=1.0,
    help="Seconds between stats.",
)
@click.option("--watch", is_flag=True, help="Keep showing stats until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def launch(
    *,
    paths: Sequence[Path],
    plugin_file: Path | None,
    interval_s: float,
    watch: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Start the plugin as Nomad would, and show what it answers.

    It acts as it does under Nomad: it starts the MPS daemons that the config asks for, which stay,
    and for as long as it runs (--watch) its memory guard watches the tasks of this node. Exit status
    1 when it would refuse a task, or publishes nothing though it is configured.
    """
    if watch and as_json:
        raise click.UsageError("--watch and --json cannot go together: leave one out")
    if math.isnan(interval_s):
        raise click.BadParameter("must be a number of seconds, got nan", param_hint="--interval")
    given = given_config(paths, flags)
    config = given.checked()
    command = [str(plugin_file)] if plugin_file else own_command()
    with (
        _unwound_by_signals(),
        Host(command, HANDSHAKE, environment=_environment(), on_log=_log) as host,
    ):
        info, schema = host.info(), host.schema()
        host.set_config(given.options)
        groups = host.fingerprints().next_within(_FIRST_FINGERPRINT_S)
        sample, refused = sampled(groups, host.reserve, Refused)
        stats = host.stats(interval_s)
        first = next(stats) if groups else {}
        daemons = () if config.simulate else daemon_views(config.mps)
        if as_json:
            style.show_json(
                {
                    "plugin": info._asdict(),
                    "schema": schema,
                    "config": given.options,
                    "groups": group_documents(groups),
                    "reservation": reservation_document(sample),
                    "mps": [view._asdict() for view in daemons],
                    "stats": _stats_document(first),
                }
            )
            return _status(refused, groups, config)
        title = f"{info.name} {info.version}, device API {', '.join(info.api_versions)}"
        style.show(_config_table(title, schema, given.options))
        if daemons:
            style.note(_DAEMONS_STAY)
        if groups:
            style.show(*group_tables(groups), vgpu_table(groups), *mps_tables(daemons))
        if sample:
            style.show(reservation_table(sample))
        by_index = _by_index(groups)
        if groups and watch:
            _follow(stats, by_index)
        elif groups:
            style.show(_stats_table(first, by_index))
        return _status(refused, groups, config)


def _follow(stats: Iterator[StatsOfGroups], by_index: Sequence[str]) -> None:
    """Shows the stats until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt), style.live() as screen:
        for now in stats:
            screen.show(_stats_table(now, by_index))


@contextlib.contextmanager
def _unwound_by_signals() -> Iterator[None]:
    """Has SIGTERM and SIGHUP end the block as Ctrl-C does: the plugin must not be left running."""

    def unwind(number: int, _: object) -> None:
        sys.exit(_SIGNALLED + number)

    before = {each: signal.signal(each, unwind) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _status(refused: Sequence[str], groups: Sequence[DeviceGroup], config: PluginConfig) -> int:
    """The exit status; says why it is not 0."""
    if not groups:
        style.note("nvidia-vgpu: the plugin publishes nothing")
    for sentence in refused:
        style.note(f"nvidia-vgpu: {sentence}")
    return int(bool(refused) or (config.configured and not groups))


def own_command() -> list[str]:
    """How to start this very program as a plugin."""
    program = Path(sys.argv[0])
    # The single file also goes by a longer name, with version and machine.
    if program.name.startswith("nvidia-vgpu") and os.access(program, os.X_OK):
        return [str(program.absolute())]
    return [sys.executable, "-m", "nomad_nvidia_vgpu"]


def _environment() -> dict[str, str]:
    """What the plugin is started with: it needs no secrets, and `--plugin` may be any program."""
    return {name: value for name, value in os.environ.items() if not _SECRET.fullmatch(name)}


def _log(line: LogLine) -> None:
    style.note(f"[{line.level}] {line.message}")


def _config_table(title: str, schema: dict[str, str], given: dict[str, object]) -> Table:
    defaults = {path: option.default_shown for path, option in all_options()}
    rows = [
        (path, kind, value, defaults.get(path) or None)
        for path, kind in sorted(schema.items())
        if (value := _given(given, path)) is not None
    ]
    rest = f"{len(schema) - len(rows)} more have their defaults: nvidia-vgpu launch --help-config"
    return style.table(f"{title} ({rest})", ("Option", "Type", "Given", "Default"), rows)


def _given(given: dict[str, object], path: str) -> object:
    name, labelled, inner = path.partition(f"{LABELLED}.")
    if labelled:
        blocks = given.get(name)
        found = blocks.items() if isinstance(blocks, dict) else ()
        return ", ".join(f"{label}={body[inner]}" for label, body in found if inner in body) or None
    value: object = given
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return json.dumps(value) if isinstance(value, list) else value


def _by_index(groups: Sequence[DeviceGroup]) -> list[str]:
    """The ids of all vGPUs, in the order of their PCI bus ids, which is the driver's."""
    buses = {
        instance.id: instance.pci_bus_id or "" for group in groups for instance in group.instances
    }
    return sorted(buses, key=lambda vgpu: (buses[vgpu], vgpu))


def _stats_table(groups: StatsOfGroups, by_index: Sequence[str] = ()) -> Table:
    """One column for each GPU, whose vGPUs all show the same figures."""
    found = {vgpu: stats for instances in groups.values() for vgpu, stats in instances.items()}
    gpus: dict[str, InstanceStats] = {}
    for vgpu in (*(vgpu for vgpu in by_index if vgpu in found), *sorted(found)):
        gpus.setdefault(vgpu.rpartition("-")[0], found[vgpu])
    names = dict.fromkeys(name for stats in gpus.values() for name in stats.stats)
    rows: list[tuple[object, ...]] = [
        ("(summary)", *(style.stat_text(stats.summary) for stats in gpus.values()))
    ]
    rows += [(name, *(style.stat_text(s.stats.get(name)) for s in gpus.values())) for name in names]
    return style.table("Stats", ("Figure", *gpus), rows, by_column=True)


def _stats_document(groups: StatsOfGroups) -> dict[str, object]:
    return {
        group: {
            vgpu: {
                "summary": stats.summary and stats.summary._asdict(),
                "stats": {name: stat._asdict() for name, stat in stats.stats.items()},
                "taken_at_s": stats.taken_at_s,
            }
            for vgpu, stats in instances.items()
        }
        for group, instances in groups.items()
    }
