# SPDX-License-Identifier: MPL-2.0
"""HCL 1 and its JSON as text. `tests/e2e/test_agent_files.py` compares with a real Nomad."""

import pytest

from nomad_nvidia_vgpu.cli.agent.hcl1 import Body, Hcl1Error, Value, parse


def only(text: str) -> Value:
    """The value of the one setting."""
    (item,) = parse(f"a = {text}")
    return item.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"x"', "x"),
        (r'"a\"b\\\t\u00e9\x41\101\U0001F600"', 'a"b\\\té' + "AA😀"),
        ('"${ "q" }"', '${ "q" }'),
        ('"50%{off}"', "50%{off}"),
        ("true", True),
        ("-7", -7),
        ("0x1F", 31),
        ("017", 15),
        ("1.5e3", 1500.0),
        (".5", 0.5),
        ("[1, [2], {}, ]", [1, [2], Body()]),
        ("<<EOF\nx\n  y\nEOF\n", "x\n  y\n"),
        ("<<EOF\nx\n  EOF\n", "x\n  "),
        ("<<-EOF\n  x\n    y\n  EOF\n", "x\n  y\n"),
        ("<<-EOF\nx\n  EOF\n", "x\n"),
    ],
)
def test_a_value_is_read(text: str, value: Value) -> None:
    """Each form that a value can have."""
    assert only(text) == value
    assert only(text.replace("\n", "\r\n")) == value


def test_items_keep_their_names_order_and_lines() -> None:
    """Blocks with labels, a name that is there twice, comments, and commas wherever one may be."""
    text = '# one\nb "x" y {\n  k = 1, k = 2,\n},\n/* two\n*/ "q.r" = 3 // three\nc.d = 4'
    block, quoted, dotted = parse(text)
    assert (block.keys, block.line) == (("b", "x", "y"), 2)
    assert isinstance(block.value, Body)
    assert [(item.keys, item.value) for item in block.value] == [(("k",), 1), (("k",), 2)]
    assert (quoted.keys, quoted.value, quoted.line) == (("q.r",), 3, 6)
    assert (dotted.keys, dotted.line) == (("c.d",), 7)


def test_names_are_found_in_any_case() -> None:
    """As Nomad finds them."""
    assert [item.value for item in parse("Ab = 1\nb = 2\naB = 3").of("ab")] == [1, 3]


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("a = b", 1, "a word is no value"),
        ("\na : 1", 2, ": follows a name"),
        ("a b = 1", 1, "2 names stand before one ="),
        ("true = 1", 1, "true cannot be a name"),
        ("a = 1\n}", 2, "a } has no {"),
        ("a {\n\n", 1, "the { is never closed"),
        ("a = [\n1", 1, "the [ is never closed"),
        ("a = [1 2]", 1, "a comma is missing"),
        ('a = "x\n"', 1, "a string is never closed"),
        (r'a = "\q"', 1, "a backslash"),
        ("a = <<EOF\nx", 1, "is never ended"),
        ("a = 09", 1, "a digit above 7"),
        ("a = 9223372036854775808", 1, "larger than 64 bits"),
        ("a = 1,, b = 2", 1, ", stands where a name must"),
        ("a = 1 ! 2", 1, "does not belong there"),
        ("= 1", 1, "= stands where a name must"),
        ("a", 1, "the end of the file follows a name"),
        ("a = " + "[" * 300, 1, "nested more than"),
    ],
)
def test_what_is_no_hcl_says_line_and_remedy(text: str, line: int, why: str) -> None:
    """Nothing else is raised."""
    with pytest.raises(Hcl1Error) as caught:
        parse(text)
    assert caught.value.line == line
    assert why in caught.value.why


def test_json_is_read_as_the_hcl_that_it_stands_for() -> None:
    """What holds only objects becomes names, a list of objects becomes blocks, null is empty."""
    text = '{"p": {"x": {"c": {"k": [1, "\\u00e9"], "n": null}}}, "p": [{"y": {"z": 1}}, {"z": 2}]}'
    assert [(item.keys, item.value) for item in parse(text)] == [
        (("p", "x", "c"), Body(parse('{"k": [1, "é"], "n": ""}'))),
        (("p", "y"), Body(parse('{"z": 1}'))),
        (("p",), Body(parse('{"z": 2}'))),
    ]


@pytest.mark.parametrize("text", ['{"a": 1,}', '{"a": 1', '{"a": 1} more', '{"a": 1, "b": }', "{"])
def test_json_is_as_forgiving_as_nomads(text: str) -> None:
    """What follows the last value is not looked at."""
    assert [item.keys for item in parse(text)] == [("a",)][: text.count("a")]


@pytest.mark.parametrize(
    "text", ['{"a" 1}', "{1: 2}", '{"a": x}', '{"a": [true]}', '{"a": [[1]]}', '{"a": "x}']
)
def test_what_is_no_json_is_called_so(text: str) -> None:
    """The error names the form."""
    with pytest.raises(Hcl1Error) as caught:
        parse(text)
    assert caught.value.form == "JSON"
