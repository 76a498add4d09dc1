# SPDX-License-Identifier: MPL-2.0
"""The check of CDI specifications."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.cdi import SpecFile, found, specification
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level
from unit.cli.diagnosis.nodes import driver, facts, node, one, written
from unit.example_gpus import gpu

YAML = """\
---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
containerEdits:
  mounts:
  - containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.590.48.01
    hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.590.48.01
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
"""
DOCUMENT = {
    "cdiVersion": "0.5.0",
    "kind": "nvidia.com/gpu",
    "devices": [],
    "containerEdits": {"mounts": [{"hostPath": "/lib/libcuda.so.580.95.05"}]},
}
RUNNING = driver(gpu(), version="590.48.01")


def test_no_specification_is_ok(tmp_path: Path) -> None:
    """Docker's runtime makes its own."""
    one(specification, facts(tmp_path, look=RUNNING), Level.OK, "no CDI specification")


@pytest.mark.parametrize("place", ["etc/cdi/nvidia.yaml", "run/cdi/nvidia.yml"])
def test_a_specification_of_the_driver_is_ok(tmp_path: Path, place: str) -> None:
    """Where nvidia-ctk writes it, or the toolkit's service."""
    path = written(tmp_path / place, YAML)
    one(specification, facts(tmp_path, look=RUNNING), Level.OK, str(path))


def test_a_specification_of_an_older_driver_is_a_warning(tmp_path: Path) -> None:
    """Its files are gone since the upgrade; containers with it do not start."""
    path = written(tmp_path / "etc/cdi/nvidia.json", json.dumps(DOCUMENT))
    known = facts(tmp_path, look=RUNNING)
    one(specification, known, Level.WARNING, "580.95.05", "590.48.01", f"--output={path}")


def test_without_a_driver_its_age_is_not_judged(tmp_path: Path) -> None:
    """There is nothing to compare with."""
    written(tmp_path / "etc/cdi/nvidia.yaml", YAML)
    one(specification, facts(tmp_path, look=driver(problem="x: y")), Level.OK)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[]", "lacks"),
        ("a.yaml", "kind: nvidia.com/gpu\n", "lacks cdiVersion, devices"),
        ("a.yaml", "", "lacks"),
    ],
)
def test_a_file_that_is_none_is_a_warning(tmp_path: Path, name: str, text: str, words: str) -> None:
    """A file that was written half spoils CDI for every vendor."""
    written(tmp_path / "etc/cdi" / name, text)
    one(specification, facts(tmp_path, look=RUNNING), Level.WARNING, words)


def test_a_file_that_is_no_text_is_a_warning(tmp_path: Path) -> None:
    """Whatever it is."""
    written(tmp_path / "etc/cdi/a.yaml", "").write_bytes(b"\xff")
    one(specification, facts(tmp_path, look=RUNNING), Level.WARNING, "cannot be read")


def test_other_vendors_files_are_not_ours_to_judge(tmp_path: Path) -> None:
    """Nor are other files."""
    written(tmp_path / "etc/cdi/intel.yaml", YAML.replace("nvidia.com/gpu", "intel.com/gpu"))
    written(tmp_path / "etc/cdi/intel.json", json.dumps({**DOCUMENT, "kind": "intel.com/gpu"}))
    written(tmp_path / "etc/cdi/README", "hello")
    assert found(node(tmp_path)) == []


def test_what_nomad_cannot_do_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks have no form in Nomad; whoever reads them fills `lost`."""
    spec = SpecFile(Path("/etc/cdi/a.yaml"), lost=("enable-cuda-compat",))
    monkeypatch.setattr("nomad_nvidia_vgpu.cli.diagnosis.cdi.found", lambda _node: [spec])
    verdicts = list(specification(facts(tmp_path)))
    assert [v.level for v in verdicts] == [Level.OK, Level.WARNING]
    assert "enable-cuda-compat" in verdicts[1].sentence
