# SPDX-License-Identifier: MPL-2.0
"""Tables on terminals that are wide enough for them, and on others."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.cli.tables.fitting import FittingTable
from nomad_nvidia_vgpu.cli.tables.top import guard_table, node_table
from nomad_nvidia_vgpu.config.blocks import MemoryGuardConfig
from nomad_nvidia_vgpu.tasks.foresight import Foresight
from scripts.pictures import observation

UUID = "GPU-4dd59cb6-ccf8-507f-a684-fadcc230774c"
COLUMNS = ("UUID", "Model", "Memory MiB", "MIG", "Health")
ROWS = [
    (UUID, "NVIDIA A100-SXM4-80GB", 81920, None, "healthy"),
    (UUID.replace("4", "5"), "Tesla T4", 15360, None, "needs a reset: XID 79, fell off the bus"),
]


def drawn(table: Table, width: int) -> list[str]:
    """The lines of a table on a terminal of this width."""
    console = Console(width=width, file=io.StringIO(), highlight=False)
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    assert all(len(line) <= width for line in lines)
    return lines


def gpus() -> Table:
    """A table of GPUs."""
    return style.table("GPUs", COLUMNS, ROWS)


@pytest.mark.parametrize("width", range(60, 160))
def test_no_word_is_broken_at_any_width(width: int) -> None:
    """Every word of every cell, and of every heading, can be read whole."""
    words = " ".join(drawn(gpus(), width)).split()
    wanted = {word for row in (COLUMNS, *ROWS) for cell in row for word in str(cell).split()}
    assert wanted - {"None", "MIG"} <= set(words)


def test_a_wide_terminal_has_one_line_for_each_row() -> None:
    """Title, headings, rows."""
    assert len(drawn(gpus(), 160)) == 4


def test_sentences_and_headings_are_folded_first() -> None:
    """A table stays a table as long as nothing else must be folded."""
    lines = drawn(gpus(), 105)
    assert [line.split()[0] for line in lines if line.startswith("GPU-")] == [r[0] for r in ROWS]
    assert "needs a reset: XID 79," in " ".join(lines)
    assert "fell off the bus" not in " ".join(lines)


def test_a_narrow_terminal_has_records() -> None:
    """One for each row, with a line for each value that there is."""
    assert drawn(gpus(), 80)[2:8] == [
        f" UUID        {UUID}",
        " Model       NVIDIA A100-SXM4-80GB",
        " Memory MiB  81920",
        " Health      healthy",
        "",
        f" UUID        {ROWS[1][0]}",
    ]


def test_the_names_in_records_stay_whole() -> None:
    """Beside a value whose longest word takes nearly all of a line."""
    name, word = "MiB used of granted", "A100-SXM4-80GB/GPU-2b62a4bd-f984-5f59-b640-6858509a7371"
    lines = drawn(style.records("T", [name, "Model"], [("1 / 2", f"NVIDIA {word}")]), 80)
    assert f" {name}  1 / 2" in lines


def test_a_table_that_is_read_downwards_has_records_of_columns() -> None:
    """Where a column and not a row is what people look at."""
    rows = [("memory", "81920 MiB", None), ("sharing", "mps", "mps")]
    lines = drawn(style.table("T", ("Attribute", "A" * 40, "B" * 40), rows, by_column=True), 80)
    assert lines[2:] == [
        f" Attribute  {'A' * 40}",
        " memory     81920 MiB",
        " sharing    mps",
        "",
        f" Attribute  {'B' * 40}",
        " sharing    mps",
    ]


def test_a_pair_of_columns_stays() -> None:
    """There is no narrower form of it."""
    assert drawn(style.table("T", ("Fact", "Value"), [("uuid", "x" * 100)]), 80)[1].split() == [
        "Fact",
        "Value",
    ]


def test_an_empty_table_is_its_headings() -> None:
    """It has nothing to fold."""
    made = FittingTable()
    made.add_column("Heading")
    assert drawn(made, 80)[0] == "┏━━━━━━━━━┓"


def headings(width: int) -> list[str]:
    """The columns of `top` on a terminal of this width."""
    lines = drawn(node_table(observation(), bars=True), width)
    first = next(number for number, line in enumerate(lines) if "GPU-" in line)
    return " ".join(lines[:first]).split()


def test_top_does_without_some_columns_where_it_must() -> None:
    """The bar goes first, and memory never."""
    assert {"W", "Alloc", "Procs"} <= set(headings(120))
    assert "━" in "".join(drawn(node_table(observation(), bars=True), 120))
    assert "━" not in "".join(drawn(node_table(observation(), bars=True), 80))
    assert {"Memory", "Procs", "Health"} <= set(headings(80))
    assert not {"W", "Alloc"} & set(headings(80))
    assert {"Memory", "Health"} <= set(headings(72))


@pytest.mark.parametrize("width", range(72, 130))
def test_top_breaks_no_word_at_any_width(width: int) -> None:
    """The names of tasks are what it is looked at for."""
    shown = " ".join(drawn(node_table(observation(), bars=True), width))
    for name in ("A100-SXM4-80GB", "transcribe/worker/whisper", "embeddings/api/server", "healthy"):
        assert name in shown.split()


def test_what_the_guard_would_do_is_read_at_any_width() -> None:
    """In records where there is no room for its table."""
    config = MemoryGuardConfig("kill")
    forecasts = Foresight(config).forecasts(observation().usage)
    lines = drawn(guard_table(forecasts, config.action, bars=True), 80)
    assert " Task       llm/serve/vllm" in lines
