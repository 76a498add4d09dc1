# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu gpus`."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.main import run

SIMULATED = ["gpus", "--simulate", "l4:2", "--simulate", "a100-sxm4-40gb:1:3g.20gb"]


def test_every_gpu_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Each GPU and MIG device is a row with model, figures and health; all well is status 0."""
    assert run(SIMULATED) == 0
    out = capsys.readouterr().out
    assert out.count("NVIDIA L4") == 2
    assert out.count("MIG-") == 1
    assert out.count("healthy") == 3
    assert "23034" in out


def test_gpus_are_in_the_order_of_the_driver(capsys: pytest.CaptureFixture[str]) -> None:
    """By PCI bus id, not by UUID."""
    run(["gpus", "--config", os.devnull, "--simulate", "t4:4"])
    buses = re.findall(r"0000:[0-9a-f]{2}:00\.0", capsys.readouterr().out)
    assert len(buses) == 4
    assert buses == sorted(buses)


def test_facts_are_shown_for_each_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for facts, it shows all that a GPU tells and nothing that it does not."""
    assert run(["gpus", "--simulate", "gb10", "--facts"]) == 0
    out = capsys.readouterr().out
    assert "unified_memory" in out
    assert "bar1_mib" not in out


def test_machines_get_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    """For machines, each GPU has its facts, health and a sample."""
    assert run([*SIMULATED, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    first, *_, device = document["gpus"]
    assert document["problems"] == []
    assert (first["model"], first["healthy"], first["memory_mib"]) == ("NVIDIA L4", True, 23034)
    assert set(first["sample"]["memory_mib"]) == {"value", "total"}
    assert device["mig_profile"] == "3g.20gb"
    assert "gpu_utilization_percent" not in device["sample"]


def test_no_size_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    """To look at the GPUs nobody has to say how they are divided."""
    assert run(["gpus", "--simulate", "t4", "--vendor", "nvidia"]) == 0
    assert "Tesla T4" in capsys.readouterr().out


def test_a_slip_in_the_agents_files_hides_no_gpu(
    agent_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told, and the GPUs are shown; in files that were named it is an error."""
    agent_files.mkdir()
    file = agent_files / "gpus.hcl"
    for block in ("config {\n vendr = 3\n }", "vgpus = 3"):
        file.write_text(f'plugin "nvidia-vgpu" {{\n {block}\n}}\n')
        assert run(["gpus", "--simulate", "l4"]) == 0
        shown = capsys.readouterr()
        assert "NVIDIA L4" in shown.out
        assert f"shown without the agent's options: {file} line " in shown.err
        assert run(["gpus", "--simulate", "l4", "--config", str(file)]) == 1
        capsys.readouterr()
