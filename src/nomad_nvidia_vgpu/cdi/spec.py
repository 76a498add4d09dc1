# SPDX-License-Identifier: MPL-2.0
"""The node's CDI specifications: what a container needs for each GPU, as `nvidia-ctk` found it.

Read: the files of kind `nvidia.com/gpu` that `nvidia-ctk cdi generate` writes, in YAML or JSON.
A file is parsed once and again when it has changed.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from nomad_nvidia_vgpu.host.files import read_bounded

KIND = "nvidia.com/gpu"

_SUFFIXES = (".yaml", ".yml", ".json")
_MAX_BYTES = 1 << 20
_MAX_DEPTH = 32
_PERMISSIONS = "rwm"
"""All there are, and CDI's default."""


class DeviceFile(NamedTuple):
    """A device file that a container is to have."""

    path: str
    host_path: str
    permissions: str


class BoundPath(NamedTuple):
    """A path of the host that a container is to have."""

    path: str
    host_path: str
    read_only: bool


class Edits(NamedTuple):
    """What is to be done to a container."""

    envs: tuple[tuple[str, str], ...] = ()
    devices: tuple[DeviceFile, ...] = ()
    mounts: tuple[BoundPath, ...] = ()
    hooks: tuple[tuple[str, ...], ...] = ()
    """The words of each hook, from its name on: `("create-symlinks", "--link", "a::/b")`."""
    others: tuple[str, ...] = ()
    """What else is asked for, in the words of CDI: `additionalGids`, `mount of type tmpfs`."""


class Spec(NamedTuple):
    """One specification."""

    path: Path
    edits: Edits
    """For every container that gets any of its devices."""
    devices: Mapping[str, Edits]
    """By name: an index, a UUID, `<gpu>:<mig>`, or `all`."""


class FoundSpecs(NamedTuple):
    """What the node's directories hold now."""

    specs: tuple[Spec, ...]
    """The one that counts most is first."""
    problems: tuple[str, ...]
    """One sentence for each file that cannot be read."""


class SpecFiles:
    """The specifications in some directories; may be asked by several threads."""

    def __init__(self, directories: Sequence[str]) -> None:
        """A file in a later directory counts more, as CDI wants it. Reads nothing yet."""
        self._directories = [Path(directory) for directory in directories]
        self._lock = threading.Lock()  # guards the cache
        self._cache: dict[Path, tuple[tuple[int, ...], Spec | str | None]] = {}

    def read(self) -> FoundSpecs:
        """What is there now; looks at every file, parses those that are new or have changed."""
        with self._lock:
            files = list(self._files())
            self._cache = {path: self._cached(path) for path in files}
            answers = [self._cache[path][1] for path in files]
        return FoundSpecs(
            tuple(answer for answer in answers if isinstance(answer, Spec)),
            tuple(answer for answer in answers if isinstance(answer, str)),
        )

    def _files(self) -> Iterator[Path]:
        for directory in reversed(self._directories):
            try:
                names = sorted(os.listdir(directory))  # noqa: PTH208  names are all that is wanted
            except OSError:
                continue  # none there: the caller that finds no GPU says where it looked
            yield from (directory / name for name in names if name.endswith(_SUFFIXES))

    def _cached(self, path: Path) -> tuple[tuple[int, ...], Spec | str | None]:
        try:
            now = path.stat()
            stamp = (now.st_mtime_ns, now.st_size, now.st_ino)
            before = self._cache.get(path)
            return before if before and before[0] == stamp else (stamp, _read(path))
        except OSError as error:
            return ((), f"{path} cannot be read ({error.strerror})")


class _Malformed(Exception):  # noqa: N818  known in this module alone
    """The text says what is not as CDI wants it."""


def _read(path: Path) -> Spec | str | None:
    """The specification; a sentence if it is none; None if it is another vendor's; OSError."""
    try:
        return _spec(path, _document(path))
    except (_Malformed, ValueError, RecursionError) as error:
        return f"{path} is no CDI specification ({_first_line(error)})"


def _document(path: Path) -> Any:
    text = read_bounded(path, _MAX_BYTES).decode("utf-8")
    if path.suffix == ".json":
        return json.loads(text)

    # It makes strings of all scalars: others would read the name 0:1 as a number of base 60.
    loader = yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader
    try:
        _weigh(yaml.parse(text, Loader=loader))
        return yaml.load(text, Loader=loader)  # noqa: S506  it builds nothing but strings
    except yaml.YAMLError as error:
        raise _Malformed(str(error)) from error


def _weigh(events: Iterable[Any]) -> None:
    """Refuses what would not fit: nested too deep for the C stack, or with parts that stand for more.

    The events of a document come one by one, and hold nothing.
    """
    depth = 0
    for event in events:
        if isinstance(event, AliasEvent):
            raise _Malformed(f"it has an alias, *{event.anchor!s:.80}")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise _Malformed(f"it is nested more than {_MAX_DEPTH} deep")


def _spec(path: Path, document: Any) -> Spec | None:
    top = _mapping(document, "the document")
    if top.get("kind") != KIND:
        return None
    devices = {}
    for entry in _list(top, "devices"):
        device = _mapping(entry, "an entry of devices")
        devices[_text(device, "name")] = _edits(device)
    return Spec(path, _edits(top), devices)


def _edits(owner: Mapping[str, Any]) -> Edits:
    edits = _mapping(owner.get("containerEdits") or {}, "containerEdits")
    mounts = [_mapping(entry, "an entry of mounts") for entry in _list(edits, "mounts")]
    bound = [mount for mount in mounts if mount.get("type") in (None, "", "bind", "none")]
    known = {"env", "deviceNodes", "mounts", "hooks"}
    others = {f"mount of type {mount.get('type')}" for mount in mounts if mount not in bound}
    return Edits(
        tuple(_env(entry) for entry in _list(edits, "env")),
        tuple(_device_file(entry) for entry in _list(edits, "deviceNodes")),
        tuple(_bound_path(mount) for mount in bound),
        tuple(_hook(entry) for entry in _list(edits, "hooks")),
        tuple(sorted(others | {str(key) for key in edits if key not in known and edits[key]})),
    )


def _env(entry: Any) -> tuple[str, str]:
    name, equals, value = entry.partition("=") if isinstance(entry, str) else ("", "", "")
    if not name or not equals or not name.isprintable():
        raise _Malformed(f"an entry of env is {entry!r:.80}, not NAME=value")
    return name, value


def _device_file(entry: Any) -> DeviceFile:
    node = _mapping(entry, "an entry of deviceNodes")
    path = _path(node, "path")
    host_path = _path(node, "hostPath") if node.get("hostPath") else path
    permissions = node.get("permissions") or _PERMISSIONS
    if not isinstance(permissions, str) or not set(permissions) <= set(_PERMISSIONS):
        raise _Malformed(f"permissions is {permissions!r:.80}, not of the letters r, w and m")
    return DeviceFile(path, host_path, permissions)


def _bound_path(mount: Mapping[str, Any]) -> BoundPath:
    options = _list(mount, "options")
    return BoundPath(_path(mount, "containerPath"), _path(mount, "hostPath"), "ro" in options)


def _hook(entry: Any) -> tuple[str, ...]:
    """The words after the tool: `nvidia-cdi-hook NAME …`, or `nvidia-ctk hook NAME …` before 1.16."""
    hook = _mapping(entry, "an entry of hooks")
    words = [str(word) for word in _list(hook, "args")][1:]
    words = words[1:] if words[:1] == ["hook"] else words
    return tuple(words) or (str(hook.get("path", "")),)


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _Malformed(f"{what} is {value!r:.80}, not a mapping")
    return value


def _list(owner: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = owner.get(key) or []
    if not isinstance(value, list):
        raise _Malformed(f"{key} is {value!r:.80}, not a list")
    return value


def _text(owner: Mapping[str, Any], key: str) -> str:
    value = owner.get(key)
    if not isinstance(value, str) or not value:
        raise _Malformed(f"{key} is {value!r:.80}, not a text")
    return value


def _path(owner: Mapping[str, Any], key: str) -> str:
    value = _text(owner, key)
    if not value.startswith("/") or not value.isprintable() or ".." in value.split("/"):
        raise _Malformed(f"{key} is {value!r:.80}, not an absolute path")
    return value


def _first_line(error: BaseException) -> str:
    lines: Iterable[str] = (" ".join(str(error).split()), type(error).__name__)
    return next(line for line in lines if line)[:200]
