# SPDX-License-Identifier: MPL-2.0
"""Tables: with lines and colours on a terminal, plain text for files and pipes. Rich lives here."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TextIO

import click
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nomad_nvidia_vgpu.cli.tables.fitting import FittingTable
from nomad_nvidia_vgpu.device.fingerprint import Attribute
from nomad_nvidia_vgpu.device.stats import Stat
from nomad_nvidia_vgpu.goplugin.logs import printable

MISSING = "-"
_LIVE: list[Live] = []
"""The live tables on the terminal, if there are any."""
_PAIR = 2
_PLAIN_WIDTH = 100_000  # a pipe has no width: nothing is to be cut or folded


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    by_column: bool = False,
    common_once: bool = False,
) -> Table:
    """A table; a cell that is None shows as a dash.

    On a terminal that is too narrow for it, one record for each row, a name and a value a line; or
    `by_column` for each column but the first, which then has the names. With `common_once` a
    terminal shows a column whose cells are all the same beside the title alone.
    """
    terminal = sys.stdout.isatty()
    rows = list(rows)
    if terminal and common_once:
        title, columns, rows = _common_once(title, columns, rows)
    # Of two columns a record would be no narrower.
    narrow = None
    if len(columns) > _PAIR:
        names, *of_each = zip(columns, *rows, strict=True) if by_column else (columns, *rows)
        narrow = partial(records, title, names, of_each)
    made = FittingTable(
        heading=cell_text(title, style="bold"),
        narrow=narrow,
        header_style="bold cyan" if terminal else "",
        box=None,
        pad_edge=False,
        padding=(0, 2 if terminal else 1, 0, 0),
    )
    for column in columns:
        made.add_column(cell_text(column), overflow="fold")
    for row in rows:
        made.add_row(*map(cell_text, row))
    return made


def _common_once(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]
) -> tuple[str, Sequence[str], list[Sequence[object]]]:
    """The title with what all of several rows have in common, and the columns that differ."""
    same = [len(rows) > 1 and len(set(cells)) == 1 for cells in zip(*rows, strict=True)]
    if not any(same) or all(same):
        return title, columns, list(rows)
    common = [
        f"{column} = {cell}"
        for column, cell, alike in zip(columns, rows[0], same, strict=True)
        if alike and cell is not None
    ]
    return (
        f"{title} (each: {', '.join(common)})" if common else title,
        [column for column, alike in zip(columns, same, strict=True) if not alike],
        [[c for c, alike in zip(row, same, strict=True) if not alike] for row in rows],
    )


def pairs(title: str, rows: Sequence[tuple[str, object]]) -> Table:
    """Names and values: as many side by side as a terminal has room for, else one a line."""
    if not sys.stdout.isatty():
        return table(title, ("Name", "Value"), rows)
    width = Console(width=None).width
    cells = [f"{name} = {MISSING if value is None else value}" for name, value in rows]
    each = max(map(cell_len, cells), default=0) + 2
    count = max(1, width // each)
    lines = -(-len(cells) // count)
    made = FittingTable(
        heading=cell_text(title, style="bold"),
        show_header=False,
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for line in range(lines):
        made.add_row(*(cell_text(cell) for cell in cells[line::lines]))
    return made


def records(title: str, names: Sequence[object], rows: Sequence[Sequence[object]]) -> Table:
    """A name and a value a line for each row, for a narrow terminal; what is None is left out."""
    made = FittingTable(
        heading=cell_text(title, style="bold"),
        box=None,
        show_header=False,
        padding=(0, 1),
    )
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for row in rows:
        made.add_row()
        for name, cell in zip(names, row, strict=True):
            if cell is not None:
                made.add_row(cell_text(name), cell_text(cell))
    return made


def cell_text(cell: object, style: str = "") -> Text:
    """A value as it stands: neither markup nor control characters in it mean anything."""
    return Text(MISSING if cell is None else printable(str(cell)), style=style)


def show(*tables: Table) -> None:
    """Prints tables, one below the other."""
    for table in tables:
        for line in _rendered(table):
            click.echo(line)
        click.echo()


def note(sentence: str) -> None:
    """Prints a sentence for people, beside the tables and not among them."""
    if _LIVE and sys.stderr is not None and sys.stderr.isatty():
        # Above the live tables: what draws them must know of every line on its terminal.
        _LIVE[-1].console.print(Text(_folded(printable(sentence), sys.stderr)), soft_wrap=True)
        return
    click.echo(_folded(printable(sentence), sys.stderr), err=True)


def say(sentence: str) -> None:
    """Prints a line on standard output, among what the command was asked for."""
    click.echo(_folded(printable(sentence), sys.stdout))


def _folded(sentence: str, stream: TextIO | None) -> str:
    """A sentence in lines that end between words on a terminal; else, or if closed, in one line."""
    if stream is None or not stream.isatty():
        return sentence
    margin = " " * (len(sentence) - len(sentence.lstrip()) + 2)
    return textwrap.fill(
        sentence,
        Console(file=stream).width,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )


def show_json(document: Any) -> None:
    """Prints a document for machines."""
    click.echo(json.dumps(document, indent=2))


@contextmanager
def live() -> Iterator["_Screen"]:
    """A place whose tables replace each other on a terminal, and follow each other elsewhere."""
    if not sys.stdout.isatty():
        yield _Screen(None)
        return
    with Live(console=_Terminal(), auto_refresh=False) as screen:
        _LIVE.append(screen)
        try:
            yield _Screen(screen)
        finally:
            _LIVE.remove(screen)


class _Terminal(Console):
    def on_broken_pipe(self) -> None:
        """Leaves it to the command line's entry, where rich would end the program with status 1."""
        raise  # noqa: PLE0704  rich calls this while it handles the error


class _Screen:
    def __init__(self, screen: Live | None) -> None:
        self._screen = screen

    def show(self, *tables: Table) -> None:
        """Shows these tables instead of the ones before."""
        if self._screen is None:
            show(*tables)
        else:
            self._screen.update(Group(*tables), refresh=True)


def attribute_text(attribute: Attribute) -> str:
    """As Nomad's own tools show it."""
    value = attribute.value
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return f"{shown} {attribute.unit}".rstrip()


def stat_text(stat: Stat | None) -> str | None:
    """As Nomad's own tools show it."""
    if stat is None:
        return None
    out_of = "" if stat.total is None else f" / {stat.total}"
    return f"{stat.value}{out_of} {stat.unit}".rstrip()


def _rendered(renderable: RenderableType) -> list[str]:
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else _PLAIN_WIDTH, highlight=False)
    with console.capture() as captured:
        console.print(renderable)
    return [line.rstrip() for line in captured.get().rstrip("\n").split("\n")]
