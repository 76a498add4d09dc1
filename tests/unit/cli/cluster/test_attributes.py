# SPDX-License-Identifier: MPL-2.0
"""Values of device attributes, compared as Nomad's scheduler does."""

from __future__ import annotations

import pytest

from nomad_nvidia_vgpu.cli.cluster.attributes import Value, compared, holds, parsed, value_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", Value(4)),
        ("-3", Value(-3)),
        ("9.0", Value(9.0)),
        ("1e3", Value(1000.0)),
        ("10 GiB", Value(10, "GiB")),
        ("10GiB", Value(10, "GiB")),
        ("4.5 GiB/s", Value(4.5, "GiB/s")),
        ("250 W", Value(250, "W")),
        ("250 mW", Value(250, "mW")),
        ("true", Value(True)),
        ("t", Value(True)),
        ("1", Value(1)),
        ("False", Value(False)),
        ("NVIDIA H100 80GB HBM3", Value("NVIDIA H100 80GB HBM3")),
        ("GiB", Value("GiB")),
        ("4 Gib", Value("4 Gib")),
        ("", Value("")),
        ("9223372036854775808", Value(9223372036854775808.0)),
    ],
)
def test_a_literal_is_read_as_nomad_reads_it(text: str, value: Value) -> None:
    """A number with a unit where there is one, then a truth, else a word."""
    found = parsed(text)
    assert found == value
    assert type(found.plain) is type(value.plain)


def test_an_attribute_is_read_from_the_api() -> None:
    """A false and a zero are values; nothing is none."""
    assert value_of({"Int": 0, "Unit": "MiB", "Float": None}) == Value(0, "MiB")
    assert value_of({"Bool": False}) == Value(False)
    assert value_of({"Unit": ""}) is None


@pytest.mark.parametrize(
    ("left", "right", "order"),
    [
        ("1 GiB", "1024 MiB", 0),
        ("1 GiB", "1 GB", 1),
        ("1500 mW", "1.5 W", 0),
        ("2 GHz", "2001 MHz", -1),
        ("4", "4.0", 0),
        ("a", "b", -1),
        ("4 GiB", "4", None),
        ("4", "4 GiB", None),
        ("4 GiB", "4 GHz", None),
        ("4 GiB", "4 GiB/s", None),
        ("a", "4", None),
        ("true", "4", None),
        ("true", "word", None),
    ],
)
def test_what_can_be_compared(left: str, right: str, order: int | None) -> None:
    """Units of one kind with each other, words with words, numbers with numbers; else not."""
    assert compared(parsed(left), parsed(right)) == order


@pytest.mark.parametrize(
    ("left", "operand", "right", "met"),
    [
        ("20 GiB", ">=", "10 GiB", True),
        ("20 GiB", ">=", "10", False),
        ("20 GiB", "!=", "10", False),  # cannot be compared: every operator is false
        ("20 GiB", "!=", "10 GiB", True),
        ("8.9", "<", "9.0", True),
        ("NVIDIA L4", "is", "NVIDIA L4", True),
        ("NVIDIA L4", "regexp", "L4$", True),
        ("NVIDIA L4", "regexp", "(", False),
        ("a,b", "set_contains", "b, a", True),
        ("a,b", "set_contains_any", "c,a", True),
        ("a,b", "set_contains_all", "c,a", False),
        ("570.86.15", "version", ">= 535, < 600", True),
        ("535", "version", ">= 535", True),  # a whole number is read as a version
        ("550.54.15", "semver", "~> 550.54", True),
        ("551.0.0", "version", "~> 550.54", False),
        ("1.0.0-beta", "version", ">= 1.0.0", False),
        ("570.86", "version", "nonsense", False),
        ("x", "no-such-operator", "x", False),
        ("x", "is_set", "", True),
        ("x", "is_not_set", "", False),
        ("x", "distinct_hosts", "", True),
    ],
)
def test_operators_mean_what_they_mean_to_the_scheduler(
    left: str, operand: str, right: str, *, met: bool
) -> None:
    """Each with values of both kinds of answer."""
    assert holds(operand, parsed(left), parsed(right)) is met


@pytest.mark.parametrize(
    ("operand", "met"), [("=", False), (">=", False), ("!=", True), ("is_set", False),
                         ("is_not_set", True), ("regexp", False), ("version", False),
                         ("set_contains", False)],
)  # fmt: skip
def test_what_is_not_there(operand: str, *, met: bool) -> None:
    """An attribute that a group lacks differs from every value, and is nothing else."""
    assert holds(operand, None, Value("x")) is met


def test_nothing_does_not_differ_from_nothing() -> None:
    """As in Nomad."""
    assert not holds("!=", None, None)


@pytest.mark.parametrize("value", [Value(1.5), Value(True)])
def test_a_version_is_a_word_or_a_whole_number(value: Value) -> None:
    """Nomad reads no others as one."""
    assert not holds("version", value, Value(">= 1"))
