# SPDX-License-Identifier: MPL-2.0
"""What Nomad makes of HCL 1 that it has no declaration for, such as the `config` of a plugin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from nomad_nvidia_vgpu.cli.agent.hcl1 import Body, Hcl1Error, Item, Value

_KNOWN = ("config", "args")


class Plugin(NamedTuple):
    """One `plugin` block."""

    label: str
    body: Body
    line: int
    labels: tuple[str, ...] = ()
    """Further ones."""

    @property
    def unexpected(self) -> list[str]:
        """Names in it that end the agent, because a plugin block has `config` and `args` alone."""
        inside = (key for item in self.body for key in item.keys)
        return [*self.labels, *(key for key in inside if key.casefold() not in _KNOWN)]

    @property
    def is_swallowed(self) -> bool:
        """Whether its `config` is JSON that holds only blocks: Nomad takes their names for labels."""
        return bool(self.labels) or any(item.keys for item in self.body.of("config"))


def plugins(body: Body) -> Iterator[Plugin]:
    """The plugin blocks of a file: labelled ones before those in a block without a label. Hcl1Error."""
    found = body.of("plugin")
    for item in found:
        if item.keys:
            yield _plugin(item)
    for item in found:
        if not item.keys:
            yield from (_plugin(inner) for inner in _body_of(item))


def _plugin(item: Item) -> Plugin:
    label, *more = item.keys
    if len(more) == 1:  # JSON that holds only objects, or one name too many
        return Plugin(label, Body([Item((more[0],), item.value, item.line)]), item.line)
    labels = tuple(name for name in more if name.casefold() != "config")
    return Plugin(label, _body_of(item), item.line, labels)


def settings_of(body: Body, name: str) -> Body:
    """The settings in all blocks of that name, in their order."""
    found: list[Item] = []
    for item in body.of(name):
        if item.keys:
            found.append(item)
        elif isinstance(item.value, Body):
            found += item.value
    return Body(found)


def literals(body: Body) -> dict[str, str | bool | int | float]:
    """The settings that have one value each, by name in small letters: of several the last counts."""
    return {
        item.keys[0].casefold(): item.value
        for item in body
        if len(item.keys) == 1 and not isinstance(item.value, (list, Body))
    }


def is_true(value: object) -> bool:
    """As Nomad reads a boolean, quoted or not."""
    return str(value).lower() in ("true", "1")


def merged(body: Body, name: str) -> dict[str, Any]:
    """What is in all blocks of that name, as one map of plain values. Hcl1Error."""
    found = body.of(name)
    values = _map(Body(item for item in found if item.keys))
    for item in found:
        if not item.keys:
            values = _map(_body_of(item), values)
    return values


def _body_of(item: Item) -> Body:
    if isinstance(item.value, Body):
        return item.value
    raise Hcl1Error(item.line, "a value stands where a block must", "write { … }")


def _map(body: Body, found: dict[str, Any] | None = None) -> dict[str, Any]:
    """A block as a map. A block within it is a list of maps, one for each time that it is there."""
    values = {} if found is None else found
    done: set[str] = set()
    for item in body:
        if not item.keys:
            raise Hcl1Error(item.line, "a block lacks the label that others of its name have")
        name = item.keys[0]
        if name in done:
            continue
        if len(item.keys) > 1:
            done.add(name)
            new: Any = [_map(Body([labelled])) for labelled in body.of(name)]
        else:
            new = _value(item.value)
        values[name] = _added(values.get(name), new, item)
    return values


def _value(value: Value) -> Any:
    if isinstance(value, Body):
        return [_map(value)]
    return [_in_list(inner) for inner in value] if isinstance(value, list) else value


def _in_list(value: Value) -> Any:
    return _map(value) if isinstance(value, Body) else _value(value)


def _added(old: Any, new: Any, item: Item) -> Any:
    """A further value of the same name: it is added to a list, and takes the place of any other."""
    if old is None:
        return new
    if type(old) is not type(new):
        raise Hcl1Error(item.line, f"{item.keys[0]} is there twice, as values of two kinds")
    return [*old, *new] if isinstance(new, list) else new
