# SPDX-License-Identifier: MPL-2.0
"""Tables for people and documents for machines."""

from __future__ import annotations

import io
import json
import sys

import pytest

from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.device.fingerprint import Attribute
from nomad_nvidia_vgpu.device.stats import Stat


def test_a_table_is_plain_text_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no terminal, a table has no lines, no colours and no folded cells."""
    style.show(style.table("GPUs", ("UUID", "Model"), [("GPU-a", "x" * 300)]))
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert "x" * 300 in out


def test_a_missing_cell_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    """A cell without a value shows as a dash, and one with zero as zero."""
    style.show(style.table("T", ("A", "B", "C"), [(None, 0, "")]))
    assert capsys.readouterr().out.splitlines()[-2].split() == ["-", "0"]


@pytest.mark.parametrize("cell", ["[bold]text[/bold]", "[/]", "[link=x]", ":smile:"])
def test_a_cell_shows_what_it_holds(capsys: pytest.CaptureFixture[str], cell: str) -> None:
    """What looks like markup in a value is shown as it stands."""
    style.show(style.table("T", ("A",), [(cell,)]))
    assert cell in capsys.readouterr().out


ESCAPES = "\x1b[31m\x1b]0;title\x07\r\n\u202e\u2028"


def test_nothing_in_a_table_speaks_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A name is spelled out that holds what would move the cursor or turn the text around."""
    style.show(style.table(f"T{ESCAPES}", (f"C{ESCAPES}",), [(f"c{ESCAPES}",)]))
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 5
    assert all(line.isprintable() for line in lines)
    assert r"c\x1b[31m" in lines[2]


@pytest.mark.parametrize("name", ["[bold]text[/bold]", "[/]", "[/red]"])
def test_titles_and_headings_show_what_they_hold(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """The names of groups and GPUs stand there too."""
    style.show(style.table(name, (name,), [("x",)]))
    assert capsys.readouterr().out.count(name) == 2


def test_a_note_is_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Names stand in sentences, too."""
    style.note(f"a {ESCAPES} b")
    assert capsys.readouterr().err.rstrip("\n").isprintable()


def test_notes_stay_beside_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence for people does not get into what a pipe reads."""
    style.note("something is odd")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "something is odd\n")


def test_a_document_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    """A document for machines can be read back."""
    document = {"gpus": [{"uuid": "GPU-a", "memory": None}]}
    style.show_json(document)
    assert json.loads(capsys.readouterr().out) == document


def test_live_tables_follow_each_other_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no terminal, tables that would replace each other are all printed."""
    with style.live() as screen:
        for number in range(3):
            screen.show(style.table("T", ("A",), [(f"row {number}",)]))
    out = capsys.readouterr().out
    assert all(f"row {number}" in out for number in range(3))


@pytest.mark.parametrize(
    ("attribute", "text"),
    [
        (Attribute(23034, "MiB"), "23034 MiB"),
        (Attribute(8.9), "8.9"),
        (Attribute("ada"), "ada"),
        (Attribute(True), "true"),
        (Attribute(0, "W"), "0 W"),
    ],
)
def test_an_attribute_as_text(attribute: Attribute, text: str) -> None:
    """An attribute reads as in Nomad's own tools."""
    assert style.attribute_text(attribute) == text


@pytest.mark.parametrize(
    ("stat", "text"),
    [
        (Stat(3, 8, "MiB"), "3 / 8 MiB"),
        (Stat(0, 8, "MiB"), "0 / 8 MiB"),
        (Stat(41, None, "%"), "41 %"),
        (Stat("unavailable"), "unavailable"),
        (None, None),
    ],
)
def test_a_figure_as_text(stat: Stat | None, text: str | None) -> None:
    """A figure reads as in Nomad's own tools, and a missing one is missing."""
    assert style.stat_text(stat) == text


class Gone(io.StringIO):
    """A terminal that is not there any more."""

    def write(self, _text: str) -> int:
        """Fails."""
        raise BrokenPipeError

    def isatty(self) -> bool:
        """Says that it is one."""
        return True


def test_a_sentence_is_folded_between_words_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Further in than its first line; a word that is too long, such as a path, stays whole."""
    monkeypatch.setenv("COLUMNS", "24")
    path = "/opt/nomad/data/plugins/nvidia-vgpu"
    lines = style._folded(f"  link {path} to the program", Gone()).split("\n")
    assert lines == ["  link", f"    {path}", "    to the program"]


def test_a_sentence_is_one_line_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads it looks for lines."""
    monkeypatch.setenv("COLUMNS", "24")
    sentence = "nvidia-vgpu: " + "word " * 20 + "end"
    assert style._folded(sentence, io.StringIO()) == sentence


def test_the_title_of_records_is_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as the records, which may be narrow."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    title = "GPUs (each: Driver = 580.95.05, CUDA = 13.0, Health = healthy)"
    assert title in style._rendered(style.records(title, ["A", "B"], [("x", "y")]))[0]


class Terminal(io.StringIO):
    """A terminal that keeps what it is told."""

    def isatty(self) -> bool:
        """Says that it is one."""
        return True


def test_a_note_beside_live_tables_is_drawn_by_what_draws_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behind its back it would be overwritten, and rows of the last tables would stay."""
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with style.live() as screen:
        screen.show(style.table("T", ("A",), [("x",)]))
        style.note("nvidia-vgpu: a GPU is held back")
    assert "nvidia-vgpu: a GPU is held back" in out.getvalue()
    assert err.getvalue() == ""
    style.note("afterwards")
    assert "afterwards" in err.getvalue()


def test_a_screen_that_nobody_sees_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library that draws it would end the program with status 1."""
    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(BrokenPipeError), style.live() as screen:
        screen.show(style.table("T", ("A",), [("x",)]))
