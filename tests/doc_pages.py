# SPDX-License-Identifier: MPL-2.0
"""What the pages of the documentation hold that can be run, parsed or looked up."""

from __future__ import annotations

import itertools
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nomad_nvidia_vgpu.config.options import options

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CHANGELOG = ROOT / "CHANGELOG.md"

_AROUND = {
    "constraint": 'device "letmutx/gpu" {{\n{}}}\n',
    "affinity": 'device "letmutx/gpu" {{\n{}}}\n',
    "device": "resources {{\n{}}}\n",
    "resources": 'task "main" {{\ndriver = "raw_exec"\nconfig {{\ncommand = "/bin/true"\n}}\n{}}}\n',
    "env": 'task "main" {{\ndriver = "raw_exec"\nconfig {{\ncommand = "/bin/true"\n}}\n{}}}\n',
    "task": 'group "docs" {{\n{}}}\n',
    "group": 'job "docs" {{\ndatacenters = ["dc1"]\n{}}}\n',
}
"""What a part of a job stands in."""
_TASK = _AROUND["env"].format("")

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_ASSIGNMENT = re.compile(r"[A-Z_]+=")


class Block(NamedTuple):
    """What stands between two lines of three backticks."""

    page: Path
    line: int
    """Of its first line."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def names(self) -> set[str]:
        """What is set or begun in HCL that is within nothing else."""
        return set(re.findall(r"^(\w+)", self.text, re.MULTILINE))

    def as_job(self) -> str | None:
        """The whole job around this HCL; None if it is of no job."""
        text, names = self.text, self.names
        while len(names) == 1 and (around := _AROUND.get(*names)):
            if names == {"group"} and "task " not in text:
                text = f"{text.rstrip().removesuffix('}')}{_TASK}}}\n"
            text = around.format(text)
            names = {text.split(maxsplit=1)[0]}
        return text if names == {"job"} else None

    def as_agent(self) -> str | None:
        """An agent's file with this HCL and a block for our plugin; None if it is of no agent."""
        if "plugin" in self.names:
            return self.text if 'plugin "nvidia-vgpu"' in self.text else self.text + _plugin()
        if self.names <= {option.name for option in options()}:
            return _plugin(self.text, sized=bool(self.names & {"vgpus", "vgpu_memory", "gpu"}))
        return None


class Command(NamedTuple):
    """One line that a reader types, or a piece of text that looks like one."""

    page: Path
    line: int
    text: str
    """Without the prompt and without a comment."""

    @property
    def words(self) -> list[str]:
        """As a shell would split it, without variables that are set for it."""
        words = shlex.split(self.text, comments=True)
        return words[next(i for i, w in enumerate(words) if not _ASSIGNMENT.match(w)) :]

    @property
    def program(self) -> str:
        """The name of what is started, without its folder."""
        return Path(self.words[0]).name

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line} {self.text}"


def blocks(*languages: str, page: Path | None = None, heading: str | None = None) -> list[Block]:
    """The blocks in these languages, or in any: of all pages, or below one heading of one page."""
    return [
        Block(
            source,
            _line(text, match.start()) + 1,
            match["language"],
            textwrap.dedent(match["text"]),
        )
        for source in ([page] if page else PAGES)
        for text in [source.read_text()]
        for match in _FENCE.finditer(text)
        if not languages or match["language"] in languages
        if heading in (None, _heading(text, match.start()))
    ]


def commands(page: Path | None = None, heading: str | None = None) -> list[Command]:
    """What a reader types, in order: the lines of console blocks that have a prompt."""
    return [
        Command(block.page, block.line + number, line[2:].partition("  #")[0].strip())
        for block in blocks("console", page=page, heading=heading)
        for number, line in enumerate(block.text.splitlines())
        if line.startswith(("$ ", "# "))
    ]


def inline() -> Iterator[Command]:
    """All code within sentences and tables."""
    for page in PAGES:
        text = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text())
        for match in _INLINE.finditer(text):
            yield Command(page, _line(text, match.start()), " ".join(match[1].split()))


def in_examples() -> Iterator[Command]:
    """What the comments of the examples tell to type: lines that are set in."""
    for page in sorted((ROOT / "examples").glob("*.hcl")):
        for number, line in enumerate(page.read_text().splitlines(), 1):
            if line.startswith("#   "):
                yield Command(page, number, line.removeprefix("#").strip())


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _heading(text: str, position: int) -> str:
    """What a part of a page is called; a prompt of root looks like the title of a page."""
    found: list[str] = re.findall(r"^##+ (.+)$", text[:position], re.MULTILINE)
    return found[-1] if found else ""


def _plugin(text: str = "", *, sized: bool = False) -> str:
    """The plugin block around some options; with a size, if they have none."""
    size = "" if sized else "    vgpus = 8\n"
    return f'plugin "nvidia-vgpu" {{\n  config {{\n{size}{text}  }}\n}}\n'


def with_file(arguments: list[str], file: Path) -> list[str]:
    """The arguments of a command of ours, with this file where the page names an agent's."""
    pairs = zip(["", *arguments], arguments, strict=False)
    return [str(file) if before == "--config" else word for before, word in pairs]


class Row(NamedTuple):
    """One row of a table."""

    header: list[str]
    cells: list[str]


def rows(page: Path) -> Iterator[Row]:
    """The rows of all tables of a page."""
    lines = [*page.read_text().splitlines(), ""]
    header: list[str] = []
    for line, following in itertools.pairwise(lines):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if following.startswith(("|---", "| ---")):
            header = cells
        elif line.startswith("|") and not line.startswith(("|---", "| ---")):
            yield Row(header, cells)


def quotes(page: Path, who: str) -> list[str]:
    """What the tables of a page say that somebody says: the code in the first column."""
    return [
        quote
        for row in rows(page)
        if row.header[0] == f"{who} says"
        for quote in _INLINE.findall(row.cells[0])
    ]
