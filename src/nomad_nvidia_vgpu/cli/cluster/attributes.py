# SPDX-License-Identifier: MPL-2.0
"""Values of device attributes, compared as Nomad's scheduler compares them.

From `plugins/shared/structs/attribute.go` and `scheduler/feasible.go` of Nomad. A value with a
unit and one without cannot be compared, nor a word with a number: each operator is then false.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

_BINARY = {f"{p}iB": 1024**n for n, p in enumerate("KMGTPE", 1)}
_DECIMAL = {"kB": 10**3, "KB": 10**3, **{f"{p}B": 1000**n for n, p in enumerate("MGTPE", 2)}}
_BYTES = {**_BINARY, **_DECIMAL}
UNITS: Mapping[str, tuple[str, Fraction]] = {
    **{unit: ("bytes", Fraction(factor)) for unit, factor in _BYTES.items()},
    **{f"{unit}/s": ("bytes a second", Fraction(factor)) for unit, factor in _BYTES.items()},
    "MHz": ("hertz", Fraction(10**6)),
    "GHz": ("hertz", Fraction(10**9)),
    "mW": ("watts", Fraction(1, 1000)),
    "W": ("watts", Fraction(1)),
    "kW": ("watts", Fraction(10**3)),
    "MW": ("watts", Fraction(10**6)),
    "GW": ("watts", Fraction(10**9)),
}
"""Nomad's units: what each measures, and how much of its base it is."""

_LONGEST_FIRST = sorted(UNITS, key=len, reverse=True)
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_INT = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MAX_INT = 2**63


class Value(NamedTuple):
    """One value: a word, a truth, or a number that may have a unit."""

    plain: str | int | float | bool
    unit: str = ""

    @property
    def is_number(self) -> bool:
        """Whether it can be smaller or larger than another."""
        return not isinstance(self.plain, (str, bool))

    @property
    def in_base_units(self) -> Fraction:
        """A number in bytes, hertz or watts, or as it is."""
        assert not isinstance(self.plain, str)
        return Fraction(self.plain) * (UNITS[self.unit][1] if self.unit else 1)

    def __str__(self) -> str:
        plain = str(self.plain).lower() if isinstance(self.plain, bool) else str(self.plain)
        return f"{plain} {self.unit}".rstrip()


def value_of(raw: Mapping[str, Any]) -> Value | None:
    """An attribute as Nomad's API shows it; None where it says nothing."""
    for kind in ("String", "Bool", "Int", "Float"):
        plain = raw.get(kind)
        if plain is not None:
            return Value(plain, str(raw.get("Unit") or ""))
    return None


def parsed(text: str) -> Value:
    """What a job writes as a value: `10 GiB`, `4`, `9.0`, `true`, or a word."""
    unit = ""
    if text and text[-1].isalpha():
        unit = next((unit for unit in _LONGEST_FIRST if text.endswith(unit)), "")
    numeric = text.removesuffix(unit).strip() if unit else text
    if _INT.fullmatch(numeric) and -_MAX_INT <= int(numeric) < _MAX_INT:
        return Value(int(numeric), unit)
    if _FLOAT.fullmatch(numeric):
        return Value(float(numeric), unit)
    if text in _TRUE + _FALSE:
        return Value(text in _TRUE)
    return Value(text)


def compared(left: Value, right: Value) -> int | None:
    """Negative, zero or positive; None where Nomad cannot compare the two."""
    if left.is_number and right.is_number:
        if _kind_of_unit(left) != _kind_of_unit(right):
            return None
        a, b = left.in_base_units, right.in_base_units
        return (a > b) - (a < b)
    if left.is_number or right.is_number or type(left.plain) is not type(right.plain):
        return None
    x, y = left.plain, right.plain
    if isinstance(x, bool):  # a truth is only equal or not
        return int(x != y)
    assert isinstance(x, str)
    assert isinstance(y, str)
    return (x > y) - (x < y)


def _kind_of_unit(value: Value) -> str:
    return UNITS[value.unit][0] if value.unit in UNITS else value.unit


def _ordered(holds: Callable[[int, int], bool]) -> Callable[[Value | None, Value | None], bool]:
    def check(left: Value | None, right: Value | None) -> bool:
        order = None if left is None or right is None else compared(left, right)
        return order is not None and holds(order, 0)

    return check


def _differ(left: Value | None, right: Value | None) -> bool:
    if left is None or right is None:
        return left is not right
    order = compared(left, right)
    return order is not None and order != 0


def _regexp(left: Value | None, right: Value | None) -> bool:
    words = _words(left, right)
    try:
        return words is not None and re.search(words[1], words[0]) is not None
    except re.error:
        return False


def _contains(quantifier: Callable[..., bool]) -> Callable[[Value | None, Value | None], bool]:
    def check(left: Value | None, right: Value | None) -> bool:
        words = _words(left, right)
        if words is None:
            return False
        there = {part.strip() for part in words[0].split(",")}
        return quantifier(part.strip() in there for part in words[1].split(","))

    return check


def _words(left: Value | None, right: Value | None) -> tuple[str, str] | None:
    if left is None or right is None:
        return None
    a, b = left.plain, right.plain
    return (a, b) if isinstance(a, str) and isinstance(b, str) else None


def _version(left: Value | None, right: Value | None) -> bool:
    """The left side must be a word or a whole number, the right side a list of conditions."""
    if left is None or right is None or not isinstance(right.plain, str):
        return False
    plain = left.plain
    if isinstance(plain, (bool, float)):
        return False
    there = _version_parts(str(plain))
    return there is not None and all(
        _version_condition(there, part.strip()) for part in right.plain.split(",")
    )


_CONDITION = re.compile(r"(=|!=|>=|<=|~>|>|<|)\s*(\S+)")
_VERSION = re.compile(
    r"v?([0-9]+(?:\.[0-9]+)*)(?:-?([A-Za-z][0-9A-Za-z.~-]*|-[0-9A-Za-z.~-]+))?(?:\+.*)?"
)
_Version = tuple[tuple[int, ...], str]


def _version_parts(text: str) -> _Version | None:
    match = _VERSION.fullmatch(text.strip())
    if match is None:
        return None
    numbers = [int(part) for part in match[1].split(".")]
    return tuple(numbers + [0] * (3 - len(numbers))), match[2] or ""


def _version_condition(there: _Version, text: str) -> bool:
    match = _CONDITION.fullmatch(text)
    asked = _version_parts(match[2]) if match else None
    if match is None or asked is None:
        return False
    if match[1] == "~>":
        # All but the last number that is written must be the same.
        fixed = max(1, len(match[2].split("-")[0].split(".")) - 1)
        same = there[0][:fixed] == asked[0][:fixed]
        return same and _release(there) >= _release(asked)
    return _VERSION_OPERATORS[match[1]](_release(there), _release(asked))


def _release(version: _Version) -> tuple[tuple[int, ...], bool, str]:
    """What orders versions: one before its release is smaller than the release."""
    numbers, before = version
    while numbers and numbers[-1] == 0:
        numbers = numbers[:-1]
    return numbers, not before, before


_VERSION_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}

_OPERATORS: Mapping[str, Callable[[Value | None, Value | None], bool]] = {
    **dict.fromkeys(("=", "==", "is"), _ordered(operator.eq)),
    **dict.fromkeys(("!=", "not"), _differ),
    "<": _ordered(operator.lt),
    "<=": _ordered(operator.le),
    ">": _ordered(operator.gt),
    ">=": _ordered(operator.ge),
    "version": _version,
    "semver": _version,
    "regexp": _regexp,
    "set_contains": _contains(all),
    "set_contains_all": _contains(all),
    "set_contains_any": _contains(any),
    "is_set": lambda left, _right: left is not None,
    "is_not_set": lambda left, _right: left is None,
    # Nomad's device checker passes over these two.
    "distinct_hosts": lambda _left, _right: True,
    "distinct_property": lambda _left, _right: True,
}


def holds(operand: str, left: Value | None, right: Value | None) -> bool:
    """Whether a constraint is met; None stands for what is not there."""
    check = _OPERATORS.get(operand)
    return check is not None and check(left, right)
