# SPDX-License-Identifier: MPL-2.0
"""From the node's CDI specifications to what Nomad can give a task: files, mounts, variables.

CDI also wants programs run when a container starts; Nomad has no such thing. Most of them only
make libraries findable, so each library is mounted a second time, under the name that programs
ask for, in a directory that no image fills and that `LD_LIBRARY_PATH` names. The directories
where CDI puts the libraries would not do: named there, all else in them would take precedence
over the libraries that a program brings along.
"""

from __future__ import annotations

import posixpath
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from nomad_nvidia_vgpu.cdi import device_files
from nomad_nvidia_vgpu.cdi.shared_object import SharedObject, shared_object
from nomad_nvidia_vgpu.cdi.spec import Edits, FoundSpecs, Spec, SpecFiles
from nomad_nvidia_vgpu.errors import RequestError
from nomad_nvidia_vgpu.gpu.model import Gpu
from nomad_nvidia_vgpu.sharing.grant import Delivery, DeviceNode, Mount
from nomad_nvidia_vgpu.sharing.task_env import RUNTIME_ENV

LIBRARY_DIRECTORIES = {64: "/usr/local/nvidia/lib64", 32: "/usr/local/nvidia/lib"}
"""Where a task finds the driver's libraries by their SONAME; NVIDIA's images look here anyway."""
LIBRARY_PATH_ENV = "LD_LIBRARY_PATH"

_MAX_NAMED = 3
_REPLACED = {"update-ldcache", "create-soname-symlinks"}
"""Hooks that do nothing but make libraries findable."""

_T = TypeVar("_T")

LibraryOf = Callable[[Path], SharedObject | None]


class CdiNodes:
    """What tasks are given for GPUs; may be asked by several threads."""

    def __init__(
        self,
        directories: Sequence[str],
        *,
        driver: Path = device_files.DRIVER,
        library_of: LibraryOf = shared_object,
    ) -> None:
        """`directories` hold the specifications. Reads nothing yet.

        `driver` is where the kernel module tells of itself, `library_of` reads a library's name.
        """
        self._directories = tuple(directories)
        self._files = SpecFiles(directories)
        self._driver = driver
        self._library_of = library_of
        self._lock = threading.Lock()  # guards the cache
        self._libraries: dict[Path, tuple[tuple[int, ...], SharedObject | None]] = {}

    def deliver(self, gpus: Sequence[Gpu]) -> Delivery:
        """What a task with these GPUs is given, whatever their order; RequestError with the remedy.

        Nothing for simulated GPUs, which have no files.
        """
        real = sorted((gpu for gpu in gpus if not gpu.simulated), key=lambda gpu: gpu.uuid)
        if not real:
            return Delivery()
        found = self._files.read()
        chosen = [self._find(found, gpu) for gpu in real]
        specs = list({spec.path: spec for spec, _ in chosen}.values())
        edits = [*(spec.edits for spec in specs), *(own for _, own in chosen)]
        nodes = {
            device.path: DeviceNode(device.host_path, device.path, device.permissions)
            for device in _of(edits, lambda e: e.devices)
        }
        mounts = {
            mount.path: Mount(mount.host_path, mount.path, mount.read_only)
            for mount in _of(edits, lambda e: e.mounts)
        }
        stamps = _stamps([*nodes.values(), *mounts.values()], specs)
        mounts.update(self._by_soname(mounts, edits, stamps))
        envs = {name: text for name, text in _of(edits, lambda e: e.envs) if name != RUNTIME_ENV}
        used = {posixpath.dirname(path) for path in mounts}
        if path := [directory for directory in LIBRARY_DIRECTORIES.values() if directory in used]:
            envs[LIBRARY_PATH_ENV] = ":".join(path)
        return Delivery(
            envs,
            tuple(mount for _, mount in sorted(mounts.items())),
            tuple(node for _, node in sorted(nodes.items())),
        )

    def without_equivalent(self) -> tuple[str, ...]:
        """What the specifications ask for and no task of Nomad gets, in the words of CDI; sorted.

        A link that points to a library has an equivalent: the library is mounted there too.
        """
        found: set[str] = set()
        for spec in self._files.read().specs:
            edits = [spec.edits, *spec.devices.values()]
            mounted = {mount.path for mount in _of(edits, lambda e: e.mounts)}
            found.update(other for edit in edits for other in edit.others)
            for words in _of(edits, lambda e: e.hooks):
                lost = [link for link, target in _links(words) if not _beside(link, target)]
                if words[0] == "create-symlinks":
                    found.update(f"create-symlinks {link}" for link in lost if link not in mounted)
                elif words[0] not in _REPLACED:
                    found.add(words[0])
        return tuple(sorted(found))

    def _find(self, found: FoundSpecs, gpu: Gpu) -> tuple[Spec, Edits]:
        own = device_files.own_files(gpu, self._driver)
        for spec in found.specs:
            edits = _edits_of(spec, gpu, own)
            if edits is not None:
                return spec, edits
        where = ", ".join(self._directories)
        by_uuid = bool(found.specs) and own is None
        seen = "".join(f"; {problem}" for problem in found.problems[:_MAX_NAMED])
        raise RequestError(
            f"cannot reserve {gpu.uuid}: no CDI specification in {where} names it{seen}",
            _remedy(Path(self._directories[0]) / "nvidia.yaml", by_uuid=by_uuid),
        )

    def _by_soname(
        self,
        mounts: Mapping[str, Mount],
        edits: Iterable[Edits],
        stamps: Mapping[str, tuple[int, ...]],
    ) -> dict[str, Mount]:
        """The libraries among the mounts once more, by their SONAME and by links to it."""
        found: dict[str, Mount] = {}
        places: dict[str, tuple[str, Mount]] = {}
        for path, mount in sorted(mounts.items()):
            library = self._library(mount.host_path, stamps[mount.host_path])
            if library is not None:
                directory = LIBRARY_DIRECTORIES[library.bits]
                target = f"{directory}/{library.soname}"
                found.setdefault(target, mount._replace(task_path=target))
                for name in (posixpath.basename(path), library.soname):
                    place = posixpath.join(posixpath.dirname(path), name)
                    places[place] = (directory, mount)
        for link, target in sorted(
            pair for words in _of(edits, lambda e: e.hooks) for pair in _links(words)
        ):
            pointed = posixpath.normpath(posixpath.join(posixpath.dirname(link), target))
            if _beside(link, target) and pointed in places:
                directory, mount = places[pointed]
                path = f"{directory}/{posixpath.basename(link)}"
                found.setdefault(path, mount._replace(task_path=path))
        return found

    def _library(self, host_path: str, stamp: tuple[int, ...]) -> SharedObject | None:
        if ".so" not in posixpath.basename(host_path):
            return None
        path = Path(host_path)
        with self._lock:
            before = self._libraries.get(path)
        if before is not None and before[0] == stamp:
            return before[1]
        library = self._library_of(path)
        with self._lock:
            self._libraries[path] = (stamp, library)
        return library


def _edits_of(spec: Spec, gpu: Gpu, own: frozenset[str] | None) -> Edits | None:
    """What one specification has for a GPU: by its UUID, else by its device files."""
    named = spec.devices.get(gpu.uuid)
    if named is None:
        return next((e for e in spec.devices.values() if own and _own_of(e) == own), None)
    files = _own_of(named)
    if own and files and files != own:
        raise RequestError(
            (
                f"cannot reserve {gpu.uuid}: by {spec.path} it is {', '.join(sorted(files))}, by the"
                f" driver {', '.join(sorted(own))}"
            ),
            _remedy(spec.path),
        )
    return named


def _own_of(edits: Edits) -> frozenset[str]:
    return frozenset(device.path for device in edits.devices if device_files.is_own(device.path))


def _stamps(
    given: Iterable[DeviceNode | Mount], specs: Sequence[Spec]
) -> dict[str, tuple[int, ...]]:
    """When each path of the host changed; RequestError if any is not there any more."""
    stamps: dict[str, tuple[int, ...]] = {}
    gone: list[str] = []
    for path in sorted({entry.host_path for entry in given}):
        try:
            now = Path(path).stat()
            stamps[path] = (now.st_mtime_ns, now.st_size, now.st_ino)
        except OSError:
            gone.append(path)
    if gone:
        more = f" and {len(gone) - _MAX_NAMED} more" if len(gone) > _MAX_NAMED else ""
        raise RequestError(
            (
                f"cannot reserve: {', '.join(gone[:_MAX_NAMED])}{more}, which {' and '.join(str(spec.path) for spec in specs)}"
                " names, cannot be found on this node (was the driver upgraded?)"
            ),
            _remedy(specs[0].path),
        )
    return stamps


def generate(path: Path | str, *, by_uuid: bool = False) -> str:
    """The command that writes a specification, whose devices have UUIDs for names if need be."""
    strategy = " --device-name-strategy=uuid" if by_uuid else ""
    return f"nvidia-ctk cdi generate --output={path}{strategy}"


def _remedy(path: Path, *, by_uuid: bool = False) -> str:
    return f"run `{generate(path, by_uuid=by_uuid)}` on the node"


def _links(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The links that a hook would make, each with what it points to."""
    if words[0] == "create-symlinks":
        for word in words[1:]:
            target, colons, link = word.removeprefix("--link=").partition("::")
            if colons and target and link:
                yield link, target


def _beside(link: str, target: str) -> bool:
    """Whether a link to a library is in the directory of the library, where a loader looks."""
    return ".so" in posixpath.basename(link) and posixpath.dirname(
        posixpath.normpath(posixpath.join(posixpath.dirname(link), target))
    ) == posixpath.dirname(link)


def _of(edits: Iterable[Edits], part: Callable[[Edits], Iterable[_T]]) -> Iterator[_T]:
    for edit in edits:
        yield from part(edit)
