# SPDX-License-Identifier: MPL-2.0
"""The node's CDI specifications: whether they can be read, and are of the driver that runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Verdict, ok, warning
from nomad_nvidia_vgpu.cli.diagnosis.node import Node

GENERATE = "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"

_KIND = "nvidia.com/gpu"
_SUFFIXES = (".yaml", ".yml", ".json")
_MAX_BYTES = 8 << 20
_TOP_KEY = re.compile(r"^\"?([A-Za-z]+)\"?:(?:\s|$)", re.MULTILINE)
_OWN_KIND = re.compile(r"^\s*[\"']?kind[\"']?\s*:\s*[\"']?nvidia\.com/gpu\b", re.MULTILINE)
_LIBRARY = re.compile(r"/lib(?:cuda|nvidia-ml)\.so\.(\d+\.\d+(?:\.\d+)*)")


class SpecFile(NamedTuple):
    """A file with a specification of NVIDIA's GPUs."""

    path: Path
    problem: str = ""
    """Why it cannot be used, as half a sentence."""
    versions: frozenset[str] = frozenset()
    """Of the driver whose libraries it names."""
    lost: tuple[str, ...] = ()
    """What it asks for that no task of Nomad gets, such as hooks; not read yet."""


def specification(facts: Facts) -> Iterator[Verdict]:
    """Whether the CDI specifications can be read, and name the files of the driver that runs."""
    specs = found(facts.node)
    if not specs:
        yield ok("there is no CDI specification of NVIDIA's GPUs, and docker needs none")
    running = facts.driver.version
    for one in specs:
        other = sorted(one.versions - {running}) if running else []
        if one.problem:
            yield warning(f"{one.path} {one.problem}", f"make it anew: {_anew(one.path)}")
        elif other:
            yield warning(
                f"{one.path} names the files of driver {', '.join(other)}, and {running} runs",
                f"make it anew: {_anew(one.path)}",
            )
        else:
            yield ok(f"{one.path} describes the GPUs")
        if one.lost:
            yield warning(
                f"{one.path} asks for what Nomad cannot do: {', '.join(one.lost)}",
                "see that your tasks do without",
            )


def found(node: Node) -> list[SpecFile]:
    """The specifications of this node, and files that cannot be told from one."""
    specs = []
    for directory in (node.etc / "cdi", node.run / "cdi"):
        try:
            files = sorted(path for path in directory.iterdir() if path.suffix in _SUFFIXES)
        except OSError:
            continue
        specs += [spec for spec in map(_read, files) if spec is not None]
    return specs


def _read(path: Path) -> SpecFile | None:
    """What a file holds; None if it is another vendor's."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return SpecFile(path, f"is no CDI specification (more than {_MAX_BYTES >> 20} MiB)")
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        return SpecFile(path, f"cannot be read ({getattr(error, 'strerror', '') or error})")
    if path.suffix == ".json":
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            return SpecFile(path, f"is not valid JSON ({error})")
        keys = set(document) if isinstance(document, dict) else set()
        own = isinstance(document, dict) and document.get("kind") == _KIND
    else:
        keys, own = set(_TOP_KEY.findall(text)), _OWN_KIND.search(text) is not None
    if "kind" in keys and not own:
        return None
    missing = sorted({"cdiVersion", "kind", "devices"} - keys)
    if missing:
        return SpecFile(path, f"is no CDI specification (it lacks {', '.join(missing)})")
    return SpecFile(path, versions=frozenset(_LIBRARY.findall(text)))


def _anew(path: Path) -> str:
    return GENERATE.replace("/etc/cdi/nvidia.yaml", str(path))
