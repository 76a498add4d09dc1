# SPDX-License-Identifier: MPL-2.0
"""Kinds of option values."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.config import values

NUMBER = values.whole_number(1, 256)
PERIOD = values.duration(timedelta(milliseconds=100))
WORDS = values.list_of(values.text(r"[a-z]+", "lower-case letters"))


@pytest.mark.parametrize("given_value", [16, 16.0, "16", "16.0", "1.6e1"], ids=repr)
def test_a_whole_number_may_come_in_any_form(given_value: object) -> None:
    """A whole number is an int, whether Nomad sends it as int, float or string."""
    number = NUMBER.read(given_value)
    assert number == 16
    assert type(number) is int


@pytest.mark.parametrize("given_value", [1, 256])
def test_the_ends_of_a_range_belong_to_it(given_value: int) -> None:
    """The lowest and the highest number are allowed."""
    assert NUMBER.read(given_value) == given_value


@pytest.mark.parametrize(
    "given_value",
    [
        0,
        257,
        -1,
        1.5,
        "1.5",
        "",
        "ten",
        "0x10",
        True,
        False,
        float("nan"),
        float("inf"),
        "nan",
        "inf",
        "-inf",
        "1e400",
        10**400,
        "9" * 5000,
        b"16",
        [16],
        {},
        None,
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_whole_number_in_range_is_refused(given_value: object) -> None:
    """Anything but a whole number in range is refused with the range and the value."""
    with pytest.raises(ValueError, match=r"^must be a whole number from 1 to 256, got "):
        NUMBER.read(given_value)


@pytest.mark.parametrize(
    ("given_value", "number"), [(1, 1.0), (16, 16.0), (1.5, 1.5), ("1.1", 1.1), ("2", 2.0)]
)
def test_a_factor_is_a_number_in_any_form(given_value: object, number: float) -> None:
    """Nomad sends 1.1 as a string."""
    assert values.factor(16).read(given_value) == number


@pytest.mark.parametrize("given_value", [0.99, 16.01, "150%", "", True, None, [1.5]])
def test_what_is_no_factor_in_range_is_refused(given_value: object) -> None:
    """Less than a share cannot be promised."""
    with pytest.raises(ValueError, match=r"^must be a number from 1 to 16, got "):
        values.factor(16).read(given_value)


@pytest.mark.parametrize("given_value", [1, 0, "True", "no", "true ", None, []])
def test_only_truths_are_booleans(given_value: object) -> None:
    """A boolean is true or false and nothing that resembles it."""
    with pytest.raises(ValueError, match=r"^must be true or false, got "):
        values.boolean().read(given_value)


@pytest.mark.parametrize(("word", "truth"), [("true", True), ("false", False)])
def test_a_boolean_may_be_a_word(word: str, truth: object) -> None:
    """The two words that Nomad reads as booleans are booleans here, too."""
    assert values.boolean().read(word) is truth


@pytest.mark.parametrize("given_value", [True, False])
def test_a_boolean_is_itself(given_value: object) -> None:
    """True stays true and false stays false."""
    assert values.boolean().read(given_value) is given_value


@pytest.mark.parametrize("given_value", ["MODEL", "models", "", None, 1, ["model"]])
def test_a_word_is_one_of_the_choices(given_value: object) -> None:
    """A word that is not on the list is refused with the whole list."""
    with pytest.raises(ValueError, match=r'^must be "model" or "gpu", got '):
        values.word("model", "gpu").read(given_value)


def test_a_text_must_match_as_a_whole() -> None:
    """A text that matches in part, or with a line end, is refused."""
    kind = values.text(r"[a-z]+", "lower-case letters")
    assert kind.read("abc") == "abc"
    for wrong in ("abc1", "abc\n", "", 5, None):
        with pytest.raises(ValueError, match=r"^must be lower-case letters, got "):
            kind.read(wrong)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("100ms", 0.1), ("1m", 60.0), ("1m30s", 90.0), ("1.5h", 5400.0), ("100000us", 0.1)],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    """A Go duration becomes its number of seconds."""
    assert PERIOD.read(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "given_value",
    [
        "",
        "1",
        "0",
        "60",
        "1 minute",
        "-1m",
        "99ms",
        "99999us",
        "1.2.3s",
        ".s",
        "nan",
        "1e400h",
        "1" * 400 + "h",
        "1m\n",
        "1d",
        "1m 30s",
        "\u0661m",
        "8760h1ns0ms1s",
        "8761h",
        "9999999h",
        60,
        60.0,
        None,
        True,
        ["1m"],
        b"1m",
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_duration_is_refused(given_value: object) -> None:
    """Anything but a Go duration of at least the minimum is refused with an example."""
    with pytest.raises(
        ValueError, match=r"^must be a duration of at least 100ms and at most 8760h"
    ):
        PERIOD.read(given_value)


@given(st.text())
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    """No text makes the reader of durations fail in another way than by refusing it."""
    try:
        assert PERIOD.read(text) >= 0.1
    except ValueError as error:
        assert str(error).startswith("must be a duration")  # noqa: PT017  either may come


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9400", "127.0.0.1", 9400),
        ("0.0.0.0:1", "0.0.0.0", 1),
        ("[::1]:65535", "::1", 65535),
        ("[0:0::1]:80", "::1", 80),
        ("localhost:80", "localhost", 80),
        ("gpu-7.example.com:9400", "gpu-7.example.com", 9400),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    """An address is kept as it was written, and has two parts."""
    assert values.address().read(text) == text
    assert values.host_and_port(text) == (host, port)


def test_no_address_is_empty() -> None:
    """An operator can write that there is none."""
    assert values.address().read("") == ""


@pytest.mark.parametrize(
    "given_value",
    [
        ":9400",
        "9400",
        "localhost",
        "localhost:",
        "localhost:0",
        "localhost:65536",
        "localhost:080",
        "localhost:+80",
        "localhost:80\n",
        "localhost :80",
        "256.0.0.1:80",
        "1.2.3:80",
        "::1:80",
        "[::1]",
        "[127.0.0.1]:80",
        "[g::1]:80",
        "http://localhost:80",
        "localhost:80/metrics",
        "-a:80",
        "a" * 254 + ":80",
        "localhost:\u0668\u0660",
        9400,
        None,
        True,
        ["localhost:80"],
        b"localhost:80",
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_address_is_refused(given_value: object) -> None:
    """Anything but a host and a port is refused in one sentence with examples."""
    with pytest.raises(ValueError, match=r'^must be "" or a "host:port" such as .*, got '):
        values.address().read(given_value)


@given(st.text() | st.from_regex(r"\[?[0-9a-f:.]{1,20}\]?:[0-9]{1,6}", fullmatch=True))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    """No text makes the reader of addresses fail in another way than by refusing it."""
    try:
        values.address().read(text)
    except ValueError as error:
        assert str(error).startswith("must be")  # noqa: PT017  either may come


def test_a_list_keeps_its_order_and_drops_doubles() -> None:
    """A list has each entry once, where it first stood."""
    assert WORDS.read(["b", "a", "b"]) == ("b", "a")


def test_a_list_may_keep_doubles() -> None:
    """A list whose entries need not differ keeps them all."""
    kind = values.list_of(values.text("[a-z]", "a letter"), distinct=False)
    assert kind.read(("a", "a")) == ("a", "a")


def test_a_list_names_each_wrong_entry() -> None:
    """Every wrong entry of a list is named in the one refusal."""
    with pytest.raises(ValueError, match=r'^entries must be .*"X"; entries must be .*, got 5$'):
        WORDS.read(["X", "a", 5, "X"])


@pytest.mark.parametrize("given_value", ["abc", 5, {"a": 1}, None, b"abc"])
def test_only_a_list_is_a_list(given_value: object) -> None:
    """A single string is no list of strings."""
    with pytest.raises(ValueError, match=r"^must be a list( such as .*)?, got "):
        WORDS.read(given_value)


def test_a_list_may_have_a_least_length() -> None:
    """A list that must name something is refused when it is empty."""
    kind = values.list_of(values.text("[a-z]", "a letter"), at_least=1)
    with pytest.raises(ValueError, match=r"^must name at least 1, got \[\]$"):
        kind.read([])


@given(st.text() | st.lists(st.integers()) | st.binary())
def test_a_value_is_shown_short_and_on_one_line(value: object) -> None:
    """Whatever a value is, an error text shows it on one line of bounded length."""
    shown = values.shown(value)
    assert len(shown) <= 81
    assert "\n" not in shown


SIZE = values.size()
UNITS = {
    **{f"{letter}iB": 2 ** (10 * n) for n, letter in enumerate("KMGTPE", 1)},
    **{f"{letter}B": 10 ** (3 * n) for n, letter in enumerate("KMGTPE", 1)},
    "kB": 1000,
}


@pytest.mark.parametrize(
    ("given_value", "mib"),
    [
        ("10GiB", 10240),
        ("4.5 GiB", 4608),
        ("512MiB", 512),
        ("1KiB", 1),
        ("10GB", 9537),
        ("1TiB", 2**20),
        ("0.5GiB", 512),
    ],
)
def test_a_size_is_in_nomads_units(given_value: str, mib: int) -> None:
    """A size is MiB, rounded up so that no share that is counted in MiB is below it."""
    assert SIZE.read(given_value) == mib


@given(st.integers(1, 10**6), st.integers(0, 999), st.sampled_from(sorted(UNITS)))
def test_a_size_is_never_less_than_was_written(whole: int, part: int, unit: str) -> None:
    """Whatever the unit, the MiB are at least the bytes, and not a whole MiB more."""
    mib = SIZE.read(f"{whole}.{part:03}{unit}")
    thousandths = (whole * 1000 + part) * UNITS[unit]
    assert (mib - 1) * 1000 * 2**20 < thousandths <= mib * 1000 * 2**20


@pytest.mark.parametrize(
    "given_value",
    [
        "10",
        "10G",
        "GiB",
        "0GiB",
        "0.0MiB",
        "-1GiB",
        "1e3MiB",
        "10 gib",
        "10  GiB",
        "1.GiB",
        10,
        None,
    ],
)
def test_what_is_no_size_is_refused(given_value: object) -> None:
    """A number without a unit of Nomad's, or of nothing, is no size."""
    with pytest.raises(ValueError, match=r'^must be a size such as "10GiB".*, got '):
        SIZE.read(given_value)


@given(st.text())
def test_any_text_is_a_size_or_refused(text: str) -> None:
    """No text makes the reader of sizes fail in another way than by refusing it."""
    try:
        assert SIZE.read(text) >= 1
    except ValueError as error:
        assert str(error).startswith("must be a size")  # noqa: PT017  either may come


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (None, "null"),
        (4, "4"),
        ("it's", '"it\'s"'),
        ('a "b" \\', r'"a \"b\" \\"'),
        ("a\nb\x7f\u202e", r'"a\nb\x7f\u202e"'),
        (["a", True], '["a", true]'),
        ({"vgpus": 2, "name": "a"}, '{ vgpus = 2, name = "a" }'),
        ({}, "{}"),
    ],
)
def test_a_value_is_shown_as_it_would_be_written(value: object, text: str) -> None:
    """An operator writes HCL, not Python."""
    assert values.shown(value) == text


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("modle", ': did you mean "model"?'),
        ("MODEL", ': did you mean "model"?'),
        ("rack", ""),
        (5, ""),
    ],
)
def test_a_word_that_is_nearly_right_is_recognised(value: object, hint: str) -> None:
    """As the name of an option is."""
    with pytest.raises(ValueError, match=r"^must be ") as refused:
        values.word("model", "gpu").read(value)
    assert str(refused.value).partition("got ")[2] == f"{values.shown(value)}{hint}"


def test_a_list_of_one_is_shown_as_it_would_be_right() -> None:
    """Only where brackets are all that is missing."""
    for value, said in (("abc", 'a list such as ["abc"], got "abc"'), ("X", 'a list, got "X"')):
        with pytest.raises(ValueError, match=r"^must be a list") as refused:
            WORDS.read(value)
        assert str(refused.value) == f"must be {said}"
