# SPDX-License-Identifier: MPL-2.0
"""Tables for terminals of any width: folded between words, and never within one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

_UNBOUNDED = 100_000
_ONE_LINE = 16
"""Cells up to here are not folded: what is in them are figures."""
_LEGIBLE = 24
"""Sentences are not folded to less than that."""


class FittingTable(Table):
    """A table that folds headings and sentences, or takes another form, where there is no room."""

    def __init__(
        self,
        *,
        heading: Text | None = None,
        narrow: Callable[[], RenderableType] | None = None,
        **settings: Any,
    ) -> None:
        """`narrow` makes what is shown instead where words would have to be broken."""
        super().__init__(**settings)
        self._heading = heading
        self._narrow = narrow

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        """What rich shows: called by it when the width is known."""
        unbounded = Measurement.get(console, options.update_width(_UNBOUNDED), self).maximum
        full = [max(_width(column.header), _cells_width(column)) for column in self.columns]
        room = options.max_width - (unbounded - sum(full))
        if sum(full) > room:
            widths = self._folded(room, full)
            if widths is None and self._narrow is not None:
                yield self._narrow()
                return
            for column, width in zip(self.columns, widths or (), strict=False):
                column.width = width
        if self._heading is not None:
            yield self._heading  # not rich's title, which is folded where the table is narrower
        yield from super().__rich_console__(console, options)

    def _folded(self, room: int, full: list[int]) -> list[int] | None:
        """The widths with which nothing but sentences, or those and headings, are folded."""
        for heading_width in (_width, _word_width):
            least = [
                max(heading_width(column.header), _least_cells_width(column))
                for column in self.columns
            ]
            if sum(least) <= room:
                return _spread(room, least, full)
        return None


def _spread(room: int, least: list[int], full: list[int]) -> list[int]:
    """The widths of columns that have room for the least of each, but not for all in full."""
    wanted = sum(full) - sum(least)
    spare = room - sum(least)
    return [low + (high - low) * spare // wanted for low, high in zip(least, full, strict=True)]


def _least_cells_width(column: Column) -> int:
    """How narrow a column may be, except for its heading."""
    width = _cells_width(column)
    if width <= _ONE_LINE or column.no_wrap:
        return width
    words = max(_word_width(cell) for cell in column.cells)
    return max(words, min(_LEGIBLE, (width + 1) // 2))


def _cells_width(column: Column) -> int:
    return max((_width(cell) for cell in column.cells), default=0)


def _word_width(cell: RenderableType) -> int:
    return max(map(cell_len, str(cell).split()), default=0)


def _width(cell: RenderableType) -> int:
    return cell_len(str(cell))
