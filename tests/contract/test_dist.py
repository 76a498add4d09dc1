# SPDX-License-Identifier: MPL-2.0
"""What `make dist` makes, for both machines: whole, described, and the same wherever it is made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from built_once import built_once
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from scripts import dist
from scripts.onefile import build
from scripts.pins import REQUIREMENTS, pins
from scripts.wheels import ARCHITECTURES, PYTHONS, DownloadError, Target

pytestmark = pytest.mark.timeout(600)  # wheels are downloaded

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SOURCES = ("src", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="session")
def made() -> Path:
    """The directory with all that is made, for one Python."""
    sources = [dist.ROOT / name for name in (*SOURCES, "scripts", "requirements/run.txt")]
    return built_once("dist", sources, _make, PYTHON)


def _make(out: Path) -> None:
    if dist.main(["--out", str(out), "--python", PYTHON]) != 0:
        pytest.skip("the wheels cannot be had")


def bills(made: Path) -> dict[str, Any]:
    """The bill of each thing."""
    return {
        path.name.removesuffix(".cdx.json"): json.loads(path.read_text())
        for path in made.glob("*.cdx.json")
    }


def test_each_thing_has_a_bill_and_a_sum(made: Path) -> None:
    """Three things, three bills, and all of them are as SHA256SUMS says."""
    things = {path.name for path in made.iterdir()} - {"SHA256SUMS"}
    assert len(things) == 6
    assert {name for name in things if not name.endswith(".json")} == set(bills(made))
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(command, cwd=made, check=True, capture_output=True, text=True)
    assert {line.removesuffix(": OK") for line in done.stdout.splitlines()} == things


def test_the_bills_are_cyclonedx(made: Path) -> None:
    """By the schema that they name."""
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    for path in made.glob("*.cdx.json"):
        assert validator.validate_str(path.read_text()) is None


def test_the_bills_have_every_pin_with_a_licence(made: Path) -> None:
    """All that run.txt pins for this Python, under licences that the wheels declare."""
    pinned = pins((REQUIREMENTS / "run.txt").read_text())
    wanted = {(p.name, p.version) for p in Target(PYTHON, "x86_64").needed(pinned)}
    for name, bill in bills(made).items():
        found = {(component["name"], component["version"]) for component in bill["components"]}
        assert wanted == {
            component for component in found if component[0] != "nomad-nvidia-vgpu"
        }, name
        assert all(component["licenses"] for component in bill["components"]), name


def test_every_licence_text_is_handed_on(made: Path) -> None:
    """In bills and single files; of a wheel without such a file, too."""
    for name, bill in bills(made).items():
        for component in bill["components"]:
            texts = [
                each["license"]["text"]["content"] for each in component["evidence"]["licenses"]
            ]
            assert all(len(text) > 200 for text in texts), (name, component["name"])
    target = Target(PYTHON, "x86_64")
    wheels = build.contents(next(made.glob("*.whl")), [target])[target]
    tree = build.merged(target, wheels)
    with_text = {
        path.partition(".dist-info/")[0]
        for path in tree
        if ".dist-info/" in path and "LICEN" in path.upper()
    }
    assert len(with_text) == len(wheels)


def test_the_digests_in_the_bills_are_the_pinned_ones(made: Path) -> None:
    """Of each wheel in a single file, and of ours the one that lies beside it."""
    hashes = {h for pin in pins((REQUIREMENTS / "run.txt").read_text()) for h in pin.hashes}
    (ours,) = made.glob("*.whl")
    hashes.add(f"sha256:{hashlib.sha256(ours.read_bytes()).hexdigest()}")
    files = {name: bill for name, bill in bills(made).items() if name != ours.name}
    assert len(files) == 2
    for bill in files.values():
        assert {
            f"sha256:{component['hashes'][0]['content']}" for component in bill["components"]
        } < hashes


def test_the_graph_leads_to_everything(made: Path) -> None:
    """Nothing is in it that nothing needs."""
    for bill in bills(made).values():
        needs = {
            component["ref"]: component.get("dependsOn", []) for component in bill["dependencies"]
        }
        reached = {bill["metadata"]["component"]["bom-ref"]}
        for _ in needs:
            reached |= {need for ref in reached for need in needs[ref]}
        assert reached == set(needs)


@pytest.mark.parametrize("python", PYTHONS)
def test_each_python_has_the_same_modules_on_both_machines(
    python: str, made: Path, tmp_path: Path
) -> None:
    """None is missing on aarch64, where nothing of this can be started in tests.

    `merged` has looked at each compiled one: for that machine, under a name which that Python takes.
    """
    (ours,) = made.glob("*.whl")
    modules = []
    for architecture in ARCHITECTURES:
        target = Target(python, architecture)
        try:
            wheels = build.contents(ours, [target])[target]
        except DownloadError as error:
            pytest.skip(str(error))
        tree = build.merged(target, wheels)
        assert sum(name.endswith(".so") for name in tree) >= 4
        modules.append({n.replace(architecture, "") for n in tree if ".dist-info/" not in n})
    assert modules[0] == modules[1]


def test_no_wheel_tells_what_it_was_linked_from(made: Path) -> None:
    """As docs/packaging.md says. When one does, its list belongs into our bills."""
    wheels = build.contents(next(made.glob("*.whl")), [Target(PYTHON, "aarch64")])
    for paths in wheels.values():
        for path in paths:
            with zipfile.ZipFile(path) as archive:
                assert not [name for name in archive.namelist() if ".dist-info/sboms/" in name]


def test_all_of_it_is_the_same_to_the_byte_wherever_it_is_made(made: Path, tmp_path: Path) -> None:
    """Wherever, whenever, by whomever the sources were checked out, and whatever their environment says."""
    source, out = tmp_path / "elsewhere", tmp_path / "out"
    source.mkdir()
    for name in (*SOURCES, "scripts", "requirements"):
        copy = shutil.copytree if (dist.ROOT / name).is_dir() else shutil.copy
        copy(dist.ROOT / name, source / name)
    for path in source.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(0o700 if path.is_dir() else 0o600)
    environment = {
        **os.environ,
        "PYTHONPATH": str(source / "src"),
        "SOURCE_DATE_EPOCH": "1700000000",
        "TZ": "Pacific/Auckland",
        "LC_ALL": "C",
        "PYTHONHASHSEED": "1",
    }
    command = [sys.executable, "-m", "scripts.dist", "--out", str(out), "--python", PYTHON]
    subprocess.run(command, cwd=source, env=environment, umask=0o077, check=True)
    again = {path.name: path.read_bytes() for path in out.iterdir()}
    assert again == {path.name: path.read_bytes() for path in made.iterdir()}
