# SPDX-License-Identifier: MPL-2.0
"""Bills of materials say what the wheels say, all of it, and the same each time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from nomad_nvidia_vgpu import __version__
from scripts import sbom
from scripts.onefile.build import archive
from scripts.wheels import Target

OLD, NEW = Target("3.10", "x86_64"), Target("3.14", "x86_64")
OURS = f"nomad_nvidia_vgpu-{__version__}-py3-none-any.whl"


def wheel(directory: Path, file: str, *metadata: str, module: str = "module.py") -> Path:
    """A wheel of this file name, with these lines in its METADATA."""
    name, version, *_ = file.split("-")
    text = "\n".join(("Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *metadata))
    path = directory / file
    facts = f"{name}-{version}.dist-info"
    members = {
        f"{facts}/METADATA": text.encode(),
        f"{facts}/licenses/LICENSE": b"as is",
        f"{name}/{module}": b"",
    }
    path.write_bytes(archive(members))
    return path


@pytest.fixture
def wheels(tmp_path: Path) -> dict[Target, list[Path]]:
    """A native package for each Python, one that only the old Python needs, and ours."""
    fast = {
        target: wheel(
            tmp_path,
            f"Fast_One-1.0-{tag}-{tag}-manylinux2014_x86_64.whl",
            "License: MIT",
            "Requires-Dist: back.port (>=1) ; python_version < '3.11'",
            "Requires-Dist: pictures ; extra == 'docs'",
            module=f"_fast.{target.tag}.so",
        )
        for target, tag in ((OLD, "cp310"), (NEW, "cp314"))
    }
    backport = wheel(tmp_path, "back_port-2-py3-none-any.whl", "License-Expression: MIT OR 0BSD")
    ours = wheel(tmp_path, OURS, "License-Expression: MPL-2.0", "Requires-Dist: fast-one[docs]>=1")
    return {OLD: [fast[OLD], backport, ours], NEW: [fast[NEW], ours]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A single file, for which any bytes will do."""
    path = tmp_path / "nvidia-vgpu-9-linux-x86_64"
    path.write_bytes(b"#!/bin/sh")
    return path


def edges(bill: dict[str, Any]) -> dict[str, list[str]]:
    """What needs what."""
    return {component["ref"]: component.get("dependsOn", []) for component in bill["dependencies"]}


def values(component: dict[str, Any]) -> list[str]:
    """The CPythons that a component is for."""
    return [p["value"] for p in component["properties"] if p["name"] == sbom.CPYTHON]


def test_the_bill_of_a_file_has_its_very_wheels(
    file: Path, wheels: dict[Target, list[Path]]
) -> None:
    """Each file that went in, with digest and Pythons, and of the whole the digest."""
    bill = json.loads(sbom.of_file(file, wheels))
    assert {
        component["bom-ref"]: component["hashes"][0]["content"] for component in bill["components"]
    } == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for paths in wheels.values()
        for path in paths
    }
    whole = bill["metadata"]["component"]
    assert whole["hashes"][0]["content"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert values(whole) == ["3.10", "3.14"]
    backport, old, new, ours = sorted(
        bill["components"], key=lambda component: str.lower(component["purl"])
    )
    assert [values(component) for component in (backport, old, new, ours)] == [
        ["3.10"],
        ["3.10"],
        ["3.14"],
        ["3.10", "3.14"],
    ]
    assert backport["purl"] == "pkg:pypi/back-port@2?file_name=back_port-2-py3-none-any.whl"
    assert (old["name"], old["version"]) == ("fast-one", "1.0")


def test_what_needs_what_depends_on_the_python(
    file: Path, wheels: dict[Target, list[Path]]
) -> None:
    """Conditions are judged for each, and extras are not there."""
    old, backport, _ = (path.name for path in wheels[OLD])
    new = wheels[NEW][0].name
    assert edges(json.loads(sbom.of_file(file, wheels))) == {
        file.name: [OURS],
        OURS: [old, new],
        old: [backport],
        new: [],
        backport: [],
    }


def test_the_bill_of_the_wheel_has_packages(wheels: dict[Target, list[Path]]) -> None:
    """Which of a package's files is installed is not known before it is."""
    bill = json.loads(sbom.of_wheel(wheels[OLD][-1], wheels))
    assert [
        (component["purl"], values(component), "hashes" in component)
        for component in bill["components"]
    ] == [
        ("pkg:pypi/back-port@2", ["3.10"], False),
        ("pkg:pypi/fast-one@1.0", ["3.10", "3.14"], False),
    ]
    whole = bill["metadata"]["component"]
    assert whole["purl"] == f"pkg:pypi/nomad-nvidia-vgpu@{__version__}"
    assert whole["hashes"][0]["content"]
    assert edges(bill)[whole["bom-ref"]] == ["fast-one==1.0"]


def test_it_says_what_it_does_not_know(file: Path, wheels: dict[Target, list[Path]]) -> None:
    """What native code was linked from is in no wheel's METADATA."""
    bill = json.loads(sbom.of_file(file, wheels))
    complete, unknown = bill["compositions"]
    assert complete["aggregate"] == "complete"
    assert complete["assemblies"] == [file.name]
    assert complete["dependencies"] == sorted(edges(bill))
    assert unknown["aggregate"] == "unknown"
    assert unknown["assemblies"] == [wheels[OLD][0].name, wheels[NEW][0].name]


def test_a_package_that_is_missing_is_an_error(
    file: Path, wheels: dict[Target, list[Path]]
) -> None:
    """No bill says complete of a file that lacks something."""
    del wheels[OLD][1]
    with pytest.raises(KeyError, match="back-port"):
        sbom.of_file(file, wheels)


@pytest.mark.parametrize(
    ("lines", "licenses"),
    [
        (["License-Expression: MIT", "License: see LICENSE"], [{"license": {"id": "MIT"}}]),
        (["License-Expression: MIT OR 0BSD"], [{"expression": "MIT OR 0BSD"}]),
        (["License: apache-2.0"], [{"license": {"id": "Apache-2.0"}}]),
        (["License: see LICENSE"], [{"license": {"name": "see LICENSE"}}]),
        (
            ["Classifier: Topic :: X", "Classifier: License :: OSI Approved :: MIT License"],
            [{"license": {"name": "MIT License"}}],
        ),
        ([], []),
    ],
)
def test_the_licence_is_the_declared_one(
    tmp_path: Path, lines: Iterable[str], licenses: list[dict[str, Any]]
) -> None:
    """In the words of METADATA, and none that it does not say."""
    for entry in licenses:
        entry.get("license", entry)["acknowledgement"] = "declared"
    ours = wheel(tmp_path, OURS, *lines)
    bill = json.loads(sbom.of_wheel(ours, {NEW: [ours]}))
    assert bill["metadata"]["component"].get("licenses", []) == licenses


def test_the_same_wheels_give_the_same_bill(file: Path, wheels: dict[Target, list[Path]]) -> None:
    """Whenever, and in whatever order they were found; others give one of another number."""
    bill = sbom.of_file(file, wheels)
    turned = {target: paths[::-1] for target, paths in reversed(wheels.items())}
    assert sbom.of_file(file, turned) == bill
    file.write_bytes(b"#!/bin/bash")
    changed = json.loads(sbom.of_file(file, wheels))
    assert changed["serialNumber"] != json.loads(bill)["serialNumber"]
    assert "timestamp" not in bill


def test_it_is_cyclonedx(file: Path, wheels: dict[Target, list[Path]]) -> None:
    """As the schema has it, with nothing that the schema does not know."""
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(sbom.of_file(file, wheels)) is None
    assert validator.validate_str(sbom.of_wheel(wheels[OLD][-1], wheels)) is None
    assert validator.validate_str('{"bomFormat": "CycloneDX"}') is not None
