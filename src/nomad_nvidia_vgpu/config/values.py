# SPDX-License-Identifier: MPL-2.0
"""Kinds of option values: what each is in HCL, what it accepts, and how it says no.

Each `read` takes a value as Nomad's msgpack brings it and returns ours, or raises WrongValueError
with the end of a sentence ("must be …, got …") that the decoder puts the option's name before.
Numbers come as int, float or string (a number such as 0.1 always comes as a string).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from nomad_nvidia_vgpu.errors import Problem

if TYPE_CHECKING:
    from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus

_MAX_SHOWN = 80
_MAX_DURATION_S = 8760 * 3600  # a year: threads wait that long, and cannot for a thousand
_NUMBER = r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?"
_SIZE = re.compile(r"(?P<whole>[0-9]{1,18})(\.(?P<part>[0-9]{1,18}))? ?(?P<unit>[kKMGTPE]i?B)")
_BYTES = {
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGTPE", 1)},
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGTPE", 1)},
    "kB": 1000,
}
"""Nomad's units of bytes, because jobs compare with them."""
_MAX_PORT = 65535
_MAX_DURATION = 64
_ADDRESS = (
    r"((?P<name>[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?)|\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\])"
    r":(?P<port>[1-9][0-9]{0,4})"
)
_GO_DURATION = r"(([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})(ns|us|µs|μs|ms|s|m|h))+"


class Kind(NamedTuple):
    """One kind of value."""

    hcl_type: str
    """The type expression in Nomad's schema."""
    allowed: str
    """What may be written, for the docs: "1 to 256"."""
    read: Callable[[object], Any]
    """Nomad's value to ours; WrongValueError."""


class WrongValueError(ValueError):
    """A value that an option cannot have; its text is what follows the name of the option."""

    def __init__(
        self, allowed: str, value: object, hint: str = "", *, verb: str = "be", like: str = ""
    ) -> None:
        """`allowed`: what may be written; `hint`: what may have been meant; `verb`: if not "be".

        `like`: with what before it the value would do.
        """
        seen = f"such as {like} {shown(value)}" if like else f"got {shown(value)}"
        super().__init__(f"must {verb} {allowed}, {seen}{hint}")
        self._remedy = f"make {{}} {allowed}" if verb == "be" else f"let {{}} {verb} {allowed}"

    @classmethod
    def of_entries(cls, wrong: Sequence["WrongValueError"]) -> "WrongValueError":
        """The same of entries of a list; at least one."""
        made = cls("", "")
        made.args = ("; ".join(dict.fromkeys(f"entries {error}" for error in wrong)),)
        made._remedy = wrong[0]._remedy.replace("{}", "{} entries")  # noqa: SLF001  our own
        return made

    def about(self, name: str) -> Problem:
        """The whole sentence, which says what to do too."""
        text = f"{name} {self}"
        return Problem(text, self._remedy.replace("{}", name), text=text)


def shown(value: object) -> str:
    """A value as an error text shows it: as HCL writes it, on one line, and shortened."""
    try:
        text = _hcl(value)
    except RecursionError:
        return "a value nested too deeply to show"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that an operator most likely meant by `word`, or began to write."""
    # Imported late: only people who mistype need it.
    import difflib  # noqa: PLC0415

    word, known = word.lower(), sorted(known)
    begun = [name for name in known if word and name.startswith(word)]
    near = sorted(begun, key=len) or difflib.get_close_matches(word, known, n=1)
    return near[0] if near else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence that has named a wrong word; empty if none is like it."""
    near = nearest(word, known)
    return f": did you mean {shown(near)}?" if near else ""


def no_scalar(value: object) -> Any:
    """Refuses a value where a block belongs."""
    raise WrongValueError("a block", value)


def boolean() -> Kind:
    """`true` or `false`."""

    def read(value: object) -> bool:
        if isinstance(value, bool):
            return value
        if value in ("true", "false"):  # as Nomad reads a string where a bool belongs
            return value == "true"
        raise WrongValueError("true or false", value)

    return Kind("bool", "true or false", read)


def whole_number(low: int, high: int) -> Kind:
    """An integer from `low` to `high`."""
    allowed = f"{low} to {high}"

    def read(value: object) -> int:
        number = _number(value)
        if number is None or number != int(number) or not low <= number <= high:
            raise WrongValueError(f"a whole number from {allowed}", value)
        return int(number)

    return Kind("number", allowed, read)


def factor(high: int) -> Kind:
    """A number from 1 to `high`, such as 1.5."""
    allowed = f"1 to {high}"

    def read(value: object) -> float:
        number = _number(value)
        if number is None or not 1 <= number <= high:
            raise WrongValueError(f"a number from {allowed}", value)
        return float(number)

    return Kind("number", allowed, read)


def word(*choices: str) -> Kind:
    """One of a few words."""
    allowed = " or ".join(f'"{c}"' for c in choices)

    def read(value: object) -> str:
        if isinstance(value, str) and value in choices:
            return value
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        raise WrongValueError(allowed, value, hint)

    return Kind("string", allowed, read)


def text(pattern: str, allowed: str) -> Kind:
    """A string that matches `pattern` whole."""

    def read(value: object) -> str:
        if isinstance(value, str) and re.fullmatch(pattern, value):
            return value
        raise WrongValueError(allowed, value)

    return Kind("string", allowed, read)


def duration(minimum: timedelta) -> Kind:
    """A Go duration such as "1m30s", from `minimum` to a year; ours is seconds."""
    least = f"of at least {minimum.total_seconds() * 1000:g}ms and" if minimum else "of"
    allowed = f'a duration {least} at most 8760h, such as "30s" or "1m"'

    def read(value: object) -> float:
        seconds = _seconds(value) if isinstance(value, str) else None
        if seconds is None or not minimum.total_seconds() <= seconds <= _MAX_DURATION_S:
            raise WrongValueError(allowed, value)
        return seconds

    return Kind("string", allowed, read)


def size() -> Kind:
    """An amount of memory such as "10GiB" in Nomad's units; ours is MiB, rounded up."""
    allowed = 'a size such as "10GiB" or "4.5 GiB" (KiB to EiB, kB to EB)'

    def read(value: object) -> int:
        mib = _mib(value) if isinstance(value, str) else None
        if not mib:
            raise WrongValueError(allowed, value)
        return mib

    return Kind("string", allowed, read)


def address() -> Kind:
    """`host:port` to listen on, an IPv6 address in brackets, or "" for none; ours is the same."""
    allowed = '"" or a "host:port" such as "127.0.0.1:9400" or "[::1]:9400", the port 1 to 65535'

    def read(value: object) -> str:
        if not isinstance(value, str) or (value and host_and_port(value) is None):
            raise WrongValueError(allowed, value)
        return value

    return Kind("string", allowed, read)


def host_and_port(text_value: str) -> tuple[str, int] | None:
    """The two parts of `host:port`, the host without its brackets; None if it is none."""
    match = re.fullmatch(_ADDRESS, text_value)
    if match is None or not 1 <= int(match["port"]) <= _MAX_PORT:
        return None
    name, port = match["name"], int(match["port"])
    if name is not None and not re.fullmatch(r"[0-9.]+", name):
        return name, port
    # Imported late: few nodes have an address in their config.
    import ipaddress  # noqa: PLC0415

    try:
        number = ipaddress.IPv4Address(name) if name else ipaddress.IPv6Address(match["ipv6"])
    except ValueError:
        return None
    return str(number), port


def simulated() -> Kind:
    """Some GPUs to simulate, such as "l4:2"; ours is a SimulatedGpus."""

    def read(value: object) -> SimulatedGpus:
        # Imported late: a node with GPUs has no use for the profiles of others.
        from nomad_nvidia_vgpu.gpu.profiles import PROFILES, parse_simulated  # noqa: PLC0415

        try:
            return parse_simulated(value)
        except ValueError as error:
            profile = value.partition(":")[0] if isinstance(value, str) else ""
            known = profile.lower() in PROFILES
            hint = "" if known else did_you_mean(profile, PROFILES)
            _must, verb, allowed = str(error).split(" ", 2)
            raise WrongValueError(allowed, value, hint, verb=verb) from error

    return Kind("string", '"<profile>[:<count>[:<MIG profile>,…]]"', read)


def list_of(item: Kind, *, at_least: int = 0, distinct: bool = True) -> Kind:
    """A list of values of one kind, in the order written; doubles are dropped if `distinct`."""
    allowed = f"a list, each {item.allowed}" + (f", at least {at_least}" if at_least else "")

    def read(value: object) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise WrongValueError(f"a list{_such_as(item, value)}", value)
        if len(value) < at_least:
            raise WrongValueError(f"at least {at_least}", value, verb="name")
        items = _items(item, value)
        return tuple(dict.fromkeys(items) if distinct else items)

    return Kind(f"list({item.hcl_type})", allowed, read)


def _such_as(item: Kind, value: object) -> str:
    """How the list would be written, if the value would do as its only entry."""
    try:
        item.read(value)
    except ValueError:
        return ""
    return f" such as {shown([value])}"


def _items(item: Kind, values: Sequence[object]) -> list[Any]:
    items: list[Any] = []
    wrong: list[WrongValueError] = []
    for value in values:
        try:
            items.append(item.read(value))
        except WrongValueError as error:
            wrong.append(error)
    if wrong:
        raise WrongValueError.of_entries(wrong)
    return items


def _hcl(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # No more of it than can be shown: it may be as long as the whole config.
        escaped = value[: _MAX_SHOWN + 1].replace("\\", "\\\\").replace('"', '\\"')
        inside = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in escaped)
        return f'"{inside}"'
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_hcl, value))}]"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key} = {_hcl(inner)}" for key, inner in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    return "null" if value is None else repr(value)


def _number(value: object) -> float | int | None:
    """A finite number, or None. Booleans are no numbers here, though Python says they are."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and not re.fullmatch(_NUMBER, value):
        return None  # Python reads more than Nomad would: underscores, blanks, other digits
    try:
        number = int(value) if isinstance(value, (int, str)) else float(value)
    except ValueError:
        try:
            number = float(value)
        except ValueError:
            return None
    return number if abs(number) < float("inf") else None


def _mib(text_value: str) -> int | None:
    """Rounded up, so that no share that is counted in MiB is below it."""
    match = _SIZE.fullmatch(text_value)
    if match is None or match["unit"] not in _BYTES:
        return None
    part = match["part"] or ""
    scaled = int(match["whole"] + part) * _BYTES[match["unit"]]
    return int(-(-scaled // (10 ** len(part) << 20)))


def _seconds(text_value: str) -> float | None:
    if len(text_value) > _MAX_DURATION or not re.fullmatch(_GO_DURATION, text_value):
        return None  # the library reads more than Go: days, years, blanks
    # Imported late: only two of three starts read a config, and the default needs no parser.
    import durationpy  # noqa: PLC0415

    try:
        return durationpy.from_str(text_value).total_seconds()
    except (durationpy.DurationError, ValueError, OverflowError):
        return None
