# SPDX-License-Identifier: MPL-2.0
"""Reads HCL 1 and its JSON, the languages of an agent's files, as Nomad does.

Nomad has kept them for its agents, though its jobs are HCL 2
(docs/internals/nomad.md#the-agents-files). A comma may follow any setting, a block may be
there several times, and `${…}` is plain text. In JSON a key may be there several times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Union

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+ | \#[^\n]* | //[^\n]* | /\*.*?\*/)
      | (?P<heredoc><<-?\w+\n)
      | (?P<number>-?0[xX][0-9a-fA-F]+ | -?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)? | \.[0-9]+)
      | (?P<word>[^\W\d][\w.-]*)
      | (?P<mark>[][{},=:])
      | (?P<string>")""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(
    r'\\(?:(?P<plain>[abfnrtv"\\])|(?P<octal>[0-3][0-7]{2})|x(?P<x>[\da-fA-F]{2})'
    r"|u(?P<u>[\da-fA-F]{4})|U(?P<U>[\da-fA-F]{8}))"
)
_PLAIN = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_MAX_DEPTH = 200
_BITS = 63


class Hcl1Error(ValueError):
    """The text is not HCL 1; says why without quoting it, because it may hold tokens and keys."""

    def __init__(self, line: int, why: str, remedy: str = "correct that line") -> None:
        """`line` counts from 1."""
        super().__init__(f"line {line}: {why}")
        self.line = line
        self.why = why
        self.remedy = remedy
        self.form = "HCL"


class Item(NamedTuple):
    """One setting (`keys` has one name) or one block (its name and its labels)."""

    keys: tuple[str, ...]
    value: Value
    line: int


class Body(tuple[Item, ...]):
    """What stands between braces, or in a whole file, in its order."""

    __slots__ = ()

    def of(self, name: str) -> Body:
        """The items of that name without it; Nomad takes the name in capitals too."""
        wanted = name.casefold()
        return Body(
            Item(item.keys[1:], item.value, item.line)
            for item in self
            if item.keys and item.keys[0].casefold() == wanted
        )


Value = Union[str, bool, int, float, list["Value"], Body]  # noqa: UP007  not before Python 3.14


class _Token(NamedTuple):
    kind: str
    """`number`, `word`, `string`, `heredoc`, `end`, or the mark itself."""
    text: str
    line: int


def parse(text: str) -> Body:
    """The items of a file; Hcl1Error."""
    text = text.replace("\r\n", "\n")
    if text.lstrip().startswith("{"):
        try:
            return _flattened(_Json(text).file())
        except Hcl1Error as error:
            error.form = "JSON"
            raise
    return _Hcl(text).file()


class _Reader:
    """The tokens of a text, one ahead."""

    def __init__(self, text: str) -> None:
        self._depth = 0
        self._tokens = _tokens(text, interpolates=isinstance(self, _Hcl))
        self._read: _Token | None = None

    @property
    def _ahead(self) -> _Token:
        """The next token, which is read when it is first asked for."""
        if self._read is None:
            self._read = next(self._tokens)
        return self._read

    def _next(self) -> _Token:
        found = self._ahead
        if found.kind != "end":
            self._read = None
        return found

    def _took(self, kind: str) -> bool:
        """Whether the next token is this one, which then is taken."""
        if self._ahead.kind != kind:
            return False
        self._next()
        return True

    def _enter(self, line: int) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise Hcl1Error(line, f"blocks and lists are nested more than {_MAX_DEPTH} deep")


class _Hcl(_Reader):
    def file(self) -> Body:
        found = self._items()
        if self._ahead.kind != "end":
            raise Hcl1Error(self._ahead.line, "a } has no { before it", "take it out")
        return found

    def _items(self) -> Body:
        """Settings and blocks up to a } or the end, neither of which is taken."""
        found: list[Item] = []
        while self._ahead.kind not in ("}", "end"):
            found.append(self._item())
            self._took(",")
        return Body(found)

    def _item(self) -> Item:
        keys, line = [], self._ahead.line
        while self._ahead.kind in ("word", "string"):
            keys.append(_string(self._next()))
        if not keys:
            raise Hcl1Error(line, f"{_named(self._ahead)} stands where a name must", "take it out")
        if keys in (["true"], ["false"]):
            raise Hcl1Error(line, f"{keys[0]} cannot be a name")
        if self._took("="):
            if len(keys) > 1:
                raise Hcl1Error(line, f"{len(keys)} names stand before one =", "write one name")
            return Item(tuple(keys), self._value(), line)
        if self._ahead.kind != "{":
            raise Hcl1Error(
                self._ahead.line, f"{_named(self._ahead)} follows a name", "write = or {"
            )
        return Item(tuple(keys), self._value(), line)

    def _value(self) -> Value:
        token = self._next()
        if token.kind == "{":
            return self._body(token.line)
        if token.kind == "[":
            return self._list(token.line)
        return _literal(token)

    def _body(self, line: int) -> Body:
        self._enter(line)
        found = self._items()
        if not self._took("}"):
            raise Hcl1Error(line, "the { is never closed", "write the }")
        self._depth -= 1
        return found

    def _list(self, line: int) -> list[Value]:
        self._enter(line)
        found: list[Value] = []
        separated = True
        while not self._took("]"):
            if self._took(","):
                separated = True
                continue
            if self._ahead.kind == "end":
                raise Hcl1Error(line, "the [ is never closed", "write the ]")
            if not separated:
                raise Hcl1Error(self._ahead.line, "a comma is missing between two values of a list")
            separated = self._ahead.kind == "["  # so does Nomad
            found.append(self._value())
        self._depth -= 1
        return found


class _Json(_Reader):
    """As forgiving as Nomad: of commas too many, and of what follows the last value of a map."""

    def file(self) -> Body:
        return self._body(self._next().line)

    def _body(self, line: int) -> Body:
        self._enter(line)
        found: list[Item] = []
        while (item := self._item()) is not None:
            found.append(item)
            if not self._took(","):
                self._next()  # mostly the }, and whatever else it is ends the map
                break
        self._depth -= 1
        return Body(found)

    def _item(self) -> Item | None:
        keys = []
        while self._ahead.kind == "string":
            keys.append(_string(self._next()))
        token = self._next()
        if token.kind in ("}", "end"):
            return None
        if token.kind != ":" or not keys:
            raise Hcl1Error(token.line, "a name in quotes and a : must stand here")
        if self._ahead.kind in ("}", "end"):
            self._next()
            return None
        return Item(tuple(keys), self._value(), token.line)

    def _value(self) -> Value:
        token = self._next()
        if token.kind == "{":
            return self._body(token.line)
        if token.kind == "[":
            return self._list(token.line)
        return "" if token.text == "null" and token.kind == "word" else _literal(token)

    def _list(self, line: int) -> list[Value]:
        self._enter(line)
        found: list[Value] = []
        while not self._took("]"):
            if self._took(","):
                continue
            if self._ahead.kind in ("word", "["):
                raise Hcl1Error(
                    self._ahead.line,
                    "Nomad loses true, false, null and lists within a list of JSON",
                )
            found.append(self._value())
        self._depth -= 1
        return found


def _tokens(text: str, *, interpolates: bool) -> Iterator[_Token]:
    position, line = 0, 1
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise Hcl1Error(line, f"{text[position]!a} does not belong there")
        kind, end = str(found.lastgroup), found.end()
        if kind == "string":
            end = _end_of_string(text, end, line, interpolates=interpolates)
        elif kind == "heredoc":
            end = _end_of_heredoc(text, found, line)
        said = text[position:end]
        if kind != "space":
            yield _Token(said if kind == "mark" else kind, said, line)
        line += said.count("\n")
        position = end
    yield _Token("end", "", line)


def _end_of_string(text: str, position: int, line: int, *, interpolates: bool) -> int:
    """Where a string ends that begins at `position`: quotes within ${…} do not end it."""
    braces = 0
    while position < len(text):
        char = text[position]
        if char == "\\":
            escape = _ESCAPE.match(text, position)
            if escape is None:
                raise Hcl1Error(line, "a backslash stands before a letter that it cannot escape")
            position = escape.end()
            continue
        if not braces:
            if char == '"':
                return position + 1
            if char == "\n":
                break
        if interpolates:
            if not braces and text.startswith("${", position):
                braces, position = 1, position + 1
            elif braces:
                braces += (char == "{") - (char == "}")
        position += 1
    raise Hcl1Error(line, "a string is never closed", "write the quotation mark")


def _end_of_heredoc(text: str, begun: re.Match[str], line: int) -> int:
    """Where its last line ends, which must end as any other."""
    position, marker = begun.end(), begun[0][2:-1]
    last = re.compile(rf"\s*{marker.removeprefix('-')}\r*")
    while (end := text.find("\n", position)) >= 0:
        # An indented one at the very margin does not end it: so does Nomad.
        if end - position >= len(marker) and last.fullmatch(text, position, end):
            return end + 1
        position = end + 1
    raise Hcl1Error(line, "the text after << is never ended by its mark on a line of its own")


def _literal(token: _Token) -> Value:
    if token.kind in ("string", "heredoc"):
        return _string(token)
    if token.kind == "word" and token.text in ("true", "false"):
        return token.text == "true"
    if token.kind == "number":
        return _number(token)
    raise Hcl1Error(
        token.line, f"{_named(token)} is no value", "write quotation marks around a text"
    )


def _number(token: _Token) -> int | float:
    sign, digits = (-1, token.text[1:]) if token.text.startswith("-") else (1, token.text)
    try:
        if digits[:2] in ("0x", "0X"):
            number = int(digits, 16)
        elif not digits.isdecimal():
            return sign * float(digits)
        else:
            number = int(digits, 8 if digits.startswith("0") else 10)
    except ValueError:
        raise Hcl1Error(token.line, "a number that begins with 0 has a digit above 7") from None
    if number.bit_length() > _BITS:
        raise Hcl1Error(token.line, "a number is larger than 64 bits")
    return sign * number


def _string(token: _Token) -> str:
    if token.kind == "word":
        return token.text
    if token.kind == "heredoc":
        return _heredoc(token.text)
    pieces = re.split(r"(\$\{(?:[^{}]|\{[^{}]*\})*\})", token.text[1:-1])
    pieces[::2] = [_ESCAPE.sub(_unescaped, piece) for piece in pieces[::2]]
    return "".join(pieces)


def _unescaped(escape: re.Match[str]) -> str:
    if plain := escape["plain"]:
        return _PLAIN.get(plain, plain)
    code = (
        int(escape["octal"], 8)
        if escape["octal"]
        else int(escape["x"] or escape["u"] or escape["U"], 16)
    )
    return "\ufffd" if 0xD800 <= code <= 0xDFFF or code > 0x10FFFF else chr(code)  # noqa: PLR2004


def _heredoc(text: str) -> str:
    opening, _, rest = text.partition("\n")
    lines = rest.split("\n")[:-1]
    indent = lines[-1][: len(lines[-1]) - len(lines[-1].lstrip())]
    if opening.startswith("<<-") and all(line.startswith(indent) for line in lines):
        lines, indent = [line.removeprefix(indent) for line in lines], ""
    elif opening.startswith("<<-"):
        indent = ""
    return "".join(f"{line}\n" for line in lines[:-1]) + indent


def _named(token: _Token) -> str:
    names = {
        "end": "the end of the file",
        "string": "a text",
        "heredoc": "a text",
        "word": "a word",
    }
    return names.get(token.kind, "a number" if token.kind == "number" else token.kind)


def _flattened(body: Body) -> Body:
    """JSON as the HCL that Nomad makes of it: what holds only objects becomes names of blocks."""
    waiting = list(reversed(body))
    found: list[Item] = []
    while waiting:
        keys, value, line = waiting.pop()
        if isinstance(value, Body) and value and _are_bodies([item.value for item in value]):
            waiting += [Item((*keys, *i.keys), i.value, i.line) for i in reversed(value)]
        elif isinstance(value, list) and value and _are_bodies(value):
            waiting += [Item(keys, inner, line) for inner in reversed(value)]
        else:
            found.append(Item(keys, _flattened_value(value), line))
    return Body(found)


def _flattened_value(value: Value) -> Value:
    if isinstance(value, Body):
        return _flattened(value)
    return [_flattened_value(inner) for inner in value] if isinstance(value, list) else value


def _are_bodies(values: Sequence[Value]) -> bool:
    return all(isinstance(value, Body) for value in values)
