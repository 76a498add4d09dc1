# SPDX-License-Identifier: MPL-2.0
"""Agents' files made by chance: HCL 1 and JSON, right and wrong, as people write and mangle them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import NamedTuple, TypeVar

_WORDS = ("vgpus", "vendor", "sharing", "meta_x", "a-b", "rack.row", "Größe", "_x1")
_TEXTS = (
    "",
    "r1",
    "50%{off}",
    "${env.HOME}",
    'a ${ "q" } b',
    r"tab\tnew\nline",
    r"\u00e9",
    "#no",
    "a,b",
)
_NUMBERS = ("0", "4", "-7", "0x4", "017", "1.5", "2e3", ".5", "9223372036854775807")
_DAMAGE = (
    "{",
    "}",
    "[",
    "]",
    '"',
    "=",
    ",",
    "= =",
    "foo",
    "1 2",
    "<<EOF",
    "/*",
    "\\",
    "08",
    "!",
    "\u00a0",
)


_Choice = TypeVar("_Choice")


class File(NamedTuple):
    """One file for `plugin_dir`'s plugins of these labels."""

    suffix: str
    text: str


def generated(seed: int, label: str) -> File:
    """A file with plugin blocks named after `label`, the same for the same seed; most are right."""
    chance = random.Random(seed)
    if chance.random() < 0.25:
        return File(".json", _Json(chance).file(label))
    text = _Hcl(chance).file(label)
    if chance.random() < 0.25:
        at = chance.randrange(len(text))
        text = text[:at] + chance.choice(_DAMAGE) + text[at + chance.choice((0, 0, 1)) :]
    return File(".hcl", text)


class _Hcl:
    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def file(self, label: str) -> str:
        blocks = [self._plugin(f"{label}-{number}") for number in range(self._one_of(1, 1, 2))]
        if self._chance.random() < 0.2:
            blocks.append(self._plugin(f"{label}-0"))
        return "".join(self._gap() + block for block in blocks) + self._gap()

    def _plugin(self, label: str) -> str:
        name = self._one_of("plugin", "plugin", '"plugin"', "Plugin")
        quoted = self._one_of(f'"{label}"', f'"{label}"', label)
        bodies = "".join(
            f"config {self._body(2)}{self._end()}" for _ in range(self._one_of(1, 1, 1, 2))
        )
        args = self._one_of("", "", f'args = ["-v"]{self._end()}')
        if self._chance.random() < 0.1:
            return f"{name} {{ {quoted} {{ {args}{bodies} }} }}"
        return f"{name} {quoted} {{{self._gap()}{args}{bodies}}}"

    def _body(self, depth: int) -> str:
        names = self._chance.sample(_WORDS, self._one_of(0, 1, 2, 3))
        items = [f"{self._key(name)} = {self._value(name, depth)}{self._end()}" for name in names]
        if depth and self._chance.random() < 0.5:
            kind = self._one_of("gpu", "mps")
            for _ in range(self._one_of(1, 2)):
                labels = f' "{self._one_of("GPU-1", "*T4*", "GPU-1")}"' * (kind == "gpu")
                items.append(f"{kind}{labels} {self._body(depth - 1)}{self._end()}")
        return f"{{{self._gap()}{''.join(items)}}}"

    def _key(self, name: str) -> str:
        return self._one_of(name, name, f'"{name}"')

    def _value(self, name: str, depth: int) -> str:
        """Of the same kind for the same name: of two kinds Nomad makes the latter the former's."""
        kinds: tuple[Callable[[], str], ...] = (
            self._text,
            self._number,
            self._bool,
            self._list,
            self._heredoc,
            lambda: self._body(depth - 1) if depth else "{}",
        )
        return kinds[_WORDS.index(name) % len(kinds)]()

    def _text(self) -> str:
        return f'"{self._chance.choice(_TEXTS)}"'

    def _number(self) -> str:
        return self._chance.choice(_NUMBERS)

    def _bool(self) -> str:
        return self._one_of("true", "false")

    def _list(self) -> str:
        scalars = (self._text, self._number, self._bool)
        values = [self._chance.choice(scalars)() for _ in range(self._one_of(0, 1, 2, 3))]
        comma = self._one_of(", ", ",\n", " , # why\n")
        return f"[{self._gap()}{comma.join(values)}{self._one_of('', ',') if values else ''}]"

    def _heredoc(self) -> str:
        dash, indent = self._one_of(("", ""), ("-", "  "), ("-", ""), ("", "  "))
        lines = "".join(
            f'{self._one_of("", "  ", "    ")}x{n} ${{y}} "z"\n'
            for n in range(self._one_of(0, 1, 2))
        )
        return f"<<{dash}EOF\n{lines}{indent}EOF\n"

    def _end(self) -> str:
        return self._one_of(
            "\n", "\n", ",\n", ", ", " ", " # comment\n", " // comment\n", " /* , */\n"
        )

    def _gap(self) -> str:
        return self._one_of("", "\n", "\n\n", "\r\n", "# a { comment\n", "/* two\nlines */ ", "\t")

    def _one_of(self, *choices: _Choice) -> _Choice:
        return self._chance.choice(choices)


class _Json:
    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def file(self, label: str) -> str:
        blocks = [
            (f"{label}-{n}", {"config": self._map(2)}) for n in range(self._chance.choice((1, 2)))
        ]
        form = self._chance.random()
        if form < 0.3:
            inner = ", ".join(f'"plugin": {json.dumps({name: body})}' for name, body in blocks)
            text = f"{{{inner}}}"
        elif form < 0.6:
            text = json.dumps({"plugin": [{name: body} for name, body in blocks]}, indent=2)
        else:
            text = json.dumps({"plugin": dict(blocks)}, indent=self._chance.choice((None, 2)))
        if self._chance.random() < 0.3:
            damaged = (text.replace("}", ",}", 1), text[:-1], text + "x", text.replace(":", "", 1))
            return self._chance.choice(damaged)
        return text

    def _map(self, depth: int) -> dict[str, object]:
        found: dict[str, object] = {
            name: self._value()
            for name in self._chance.sample(_WORDS, self._chance.choice((0, 1, 2, 3)))
        }
        if depth and self._chance.random() < 0.5:
            found["gpu"] = {"GPU-1": self._map(depth - 1)}
        if depth and self._chance.random() < 0.3:
            found["mps"] = self._map(depth - 1)
        return found

    def _value(self) -> object:
        return self._chance.choice((4, 1.5, "r1", "${x}", "tab\t", True, False, None, ["a", 2], []))
