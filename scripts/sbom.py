# SPDX-License-Identifier: MPL-2.0
"""Bills of materials (SBOM) of what is given out, in CycloneDX's JSON.

They say what wheels say of themselves in METADATA. They have no time, and a serial number that
comes from the rest of the text, so that the same wheels give the same bill.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import AttachedText, HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.component_evidence import ComponentEvidence
from cyclonedx.model.license import DisjunctiveLicense, LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.metadata import RawMetadata, parse_email
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nomad_nvidia_vgpu import __version__
from scripts.license_texts import license_texts
from scripts.wheels import Target

OURS = "nomad-nvidia-vgpu"

CPYTHON = "nvidia-vgpu:cpython"
"""The property that says for which CPython a component is there; one for each."""


class Wheel(NamedTuple):
    """What one wheel says of itself."""

    path: Path
    name: str
    version: str
    license: str
    requires: tuple[Requirement, ...]
    native: bool
    """Whether native code is in it: what that was linked from, no wheel says."""


@dataclass
class Part:
    """A wheel in its place: where it is installed, and what it needs there."""

    wheel: Wheel
    pythons: set[str] = field(default_factory=set)
    needs: set[str] = field(default_factory=set)
    """Keys of other parts."""


def of_file(file: Path, wheels: Mapping[Target, Sequence[Path]]) -> str:
    """The bill of a single file: the very wheels in it, with their digests."""
    parts = gather(wheels, lambda wheel: wheel.path.name)
    components = {name: component(name, part) for name, part in parts.items()}
    for name, described in components.items():
        described.purl = package_url(parts[name].wheel, {"file_name": name})
        described.hashes.add(digest(parts[name].wheel.path))
    (ours,) = (name for name, part in parts.items() if part.wheel.name == OURS)
    whole = Component(
        bom_ref=file.name,
        type=ComponentType.APPLICATION,
        name="nvidia-vgpu",
        version=__version__,
        description="One executable file. Python, libc and NVIDIA's driver are the node's.",
        hashes=[digest(file)],
        licenses=components[ours].licenses,
        properties=components[ours].properties,
    )
    parts[file.name] = Part(parts[ours].wheel, needs={ours})
    return written(whole, components, parts)


def of_wheel(ours: Path, wheels: Mapping[Target, Sequence[Path]]) -> str:
    """The bill of our wheel: the packages pinned for it, whichever of their files is installed."""
    parts = gather(wheels, lambda wheel: f"{wheel.name}=={wheel.version}")
    components = {key: component(key, part) for key, part in parts.items()}
    whole = components.pop(f"{OURS}=={__version__}")
    whole.type = ComponentType.APPLICATION
    whole.description = "The wheel alone, and what requirements/run.txt pins for it on Linux."
    whole.hashes.add(digest(ours))
    return written(whole, components, parts)


def gather(wheels: Mapping[Target, Sequence[Path]], key: Callable[[Wheel], str]) -> dict[str, Part]:
    """All wheels by their key, each once. KeyError if one needs another that is not there."""
    parts: dict[str, Part] = {}
    for target, paths in wheels.items():
        installed = {wheel.name: wheel for wheel in map(read, paths)}
        for wheel in installed.values():
            part = parts.setdefault(key(wheel), Part(wheel))
            part.pythons.add(target.python)
            needed = (canonicalize_name(r.name) for r in wheel.requires if target.meets(r.marker))
            part.needs.update(key(installed[name]) for name in needed)
    return parts


def read(path: Path) -> Wheel:
    """The wheel in this file."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (metadata,) = (n for n in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        said, _ = parse_email(archive.read(metadata))
    return Wheel(
        path,
        canonicalize_name(said["name"]),
        said["version"],
        license_of(said),
        tuple(map(Requirement, said.get("requires_dist", ()))),
        any(name.endswith(".so") for name in names),
    )


def license_of(said: RawMetadata) -> str:
    """The licence that is declared in the newest of the three ways; empty if in none."""
    classifiers = (text.split(" :: ") for text in said.get("classifiers", ()))
    classified = next((words[-1] for words in classifiers if words[0] == "License"), "")
    return said.get("license_expression") or said.get("license") or classified


def component(key: str, part: Part) -> Component:
    """A part as CycloneDX has it, without anything of its file."""
    wheel, declared = part.wheel, LicenseAcknowledgement.DECLARED
    licenses = [
        LicenseFactory().make_from_string(text, license_acknowledgement=declared)
        for text in [wheel.license]
        if text
    ]
    return Component(
        bom_ref=key,
        name=wheel.name,
        version=wheel.version,
        purl=package_url(wheel, {}),
        licenses=licenses,
        evidence=ComponentEvidence(
            licenses=[
                DisjunctiveLicense(name=name, text=AttachedText(content=text))
                for name, text in license_texts(wheel.path).items()
            ]
        ),
        properties=[Property(name=CPYTHON, value=python) for python in part.pythons],
    )


def package_url(wheel: Wheel, qualifiers: dict[str, str]) -> PackageURL:
    """The package's name for scanners."""
    return PackageURL("pypi", None, wheel.name, wheel.version, qualifiers)


def digest(path: Path) -> HashType:
    """Of the file."""
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    return HashType(alg=HashAlgorithm.SHA_256, content=content)


def written(
    whole: Component, components: Mapping[str, Component], parts: Mapping[str, Part]
) -> str:
    """The text of a bill, the same each time."""
    bom = Bom(metadata=BomMetaData(component=whole), components=components.values())
    every = {**components, str(whole.bom_ref): whole}
    for key, described in every.items():
        bom.register_dependency(described, [every[need] for need in parts[key].needs])
    bill: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    del bill["metadata"]["timestamp"], bill["serialNumber"]
    native = sorted(key for key in every if parts[key].wheel.native)
    bill["compositions"] = [
        {
            "aggregate": "complete",
            "assemblies": [str(whole.bom_ref)],
            "dependencies": sorted(every),
        },
        {"aggregate": "unknown", "assemblies": native},
    ]
    serial = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(bill, sort_keys=True))
    return json.dumps({**bill, "serialNumber": serial.urn}, indent=2, sort_keys=True) + "\n"
