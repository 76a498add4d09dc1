# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu cluster`: who holds which share on which node."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import click

from nomad_nvidia_vgpu.cli.cluster.connection import Connection, NotThereError
from nomad_nvidia_vgpu.cli.cluster.explanation import noted
from nomad_nvidia_vgpu.cli.cluster.model import read_fleet
from nomad_nvidia_vgpu.cli.cluster.occupancy import NodeRow, UsedMib, Wanted, rows, used_memory
from nomad_nvidia_vgpu.cli.cluster.occupancy_tables import (
    cluster_document,
    cluster_table,
    node_table,
)
from nomad_nvidia_vgpu.cli.cluster.options import connected, nomad_options
from nomad_nvidia_vgpu.cli.tables import style

_SHOWN = 50
_ORDERS: Mapping[str, Callable[[NodeRow], Any]] = {
    "node": lambda row: row.node.name,
    "model": lambda row: sorted(group.name for group in row.groups),
    "used": lambda row: -row.occupancy.used,
    "free": lambda row: -row.occupancy.free,
    "unhealthy": lambda row: -row.occupancy.unhealthy,
    "largest": lambda row: -(row.largest.vgpus if row.largest else 0),
}


class Look(NamedTuple):
    """The cluster at one moment."""

    rows: tuple[NodeRow, ...]
    """All that are wanted."""
    shown: tuple[NodeRow, ...]
    """As many as are to be shown, with what their tasks use."""
    used: dict[str, UsedMib]
    notes: tuple[str, ...]


@click.command(short_help="Show the vGPUs of a whole cluster: used, free, unhealthy.")
@click.option("--node", help="Only this node, GPU by GPU; the beginning of its name or id.")
@click.option("--model", help="Only GPUs of this model; a part of its name, * for any.")
@click.option("--job", help="Only groups with tasks of this job; * for any.")
@click.option(
    "--sort",
    "order",
    type=click.Choice(tuple(_ORDERS)),
    default="node",
    show_default=True,
    help="The order of the nodes.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=_SHOWN,
    show_default=True,
    help="Show so many nodes; 0 for all. Their figures are a request for each.",
)
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=1.0, max=3600.0),
    default=5.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--json", "as_json", is_flag=True, help="For machines: a document for each look.")
@nomad_options
def cluster(  # noqa: PLR0913  each is a flag
    *,
    node: str | None,
    model: str | None,
    job: str | None,
    order: str,
    limit: int,
    watch: bool,
    interval_s: float,
    as_json: bool,
    **flags: Any,
) -> int:
    """Show the nodes of the cluster: their vGPUs, who has them, and the largest request that fits.

    Asks Nomad's API. Needs no GPU and no root.
    """
    wanted = Wanted(node or "", model or "", job or "")
    told: set[str] = set()
    live = style.live() if watch and not as_json else contextlib.nullcontext()
    try:
        with contextlib.closing(connected(flags)) as connection, live as screen:
            for seen in _looks(connection, wanted, order, limit, interval_s if watch else None):
                if as_json:
                    text = json.dumps(
                        cluster_document(seen.rows, seen.used, seen.notes),
                        indent=None if watch else 2,
                    )
                    click.echo(text)
                elif screen is None:
                    style.show(*_tables(seen, wanted))
                else:
                    screen.show(*_tables(seen, wanted))
                for note in noted(seen.notes):
                    if note not in told:
                        told.add(note)
                        style.note(note)
    except KeyboardInterrupt:
        if not watch:
            raise
        # Else it is how one leaves it.
    return 0


def _looks(
    connection: Connection, wanted: Wanted, order: str, limit: int, interval_s: float | None
) -> Iterator[Look]:
    """One look, or with an interval one after the other."""
    while True:
        yield look(connection, wanted, order, limit)
        if interval_s is None:
            return
        time.sleep(interval_s)


def look(connection: Connection, wanted: Wanted, order: str, limit: int) -> Look:
    """The cluster now; NotThereError where there is nothing of what is wanted."""
    fleet = read_fleet(connection)
    found = rows(fleet.nodes, wanted)
    if not found:
        raise NotThereError(_nothing(connection, wanted, len(fleet.nodes)))
    found.sort(key=_ORDERS[order])
    shown = found[:limit] if limit else found
    used, problems = used_memory(connection, [row.node for row in shown])
    in_full = rows([row.node for row in shown], wanted, used)
    notes = [*fleet.notes, *problems]
    if len(shown) < len(found):
        notes.append(f"{len(found) - len(shown)} more nodes: --limit 0 shows all")
    return Look((*in_full, *found[len(shown) :]), tuple(in_full), used, tuple(notes))


def _tables(seen: Look, wanted: Wanted) -> Sequence[Any]:
    if wanted.node and len(seen.rows) == 1:
        (row,) = seen.rows
        return [node_table(row, seen.used.get(row.node.id, {}))]
    return [cluster_table(seen.shown, seen.rows)]


def _nothing(connection: Connection, wanted: Wanted, nodes: int) -> str:
    asked = [f"{name} {value}" for name, value in wanted._asdict().items() if value]
    what = f" with {', '.join(asked)}" if asked else ""
    return f"Nomad at {connection.shown} knows {nodes} nodes, and none offers vGPUs of this plugin{what}"
