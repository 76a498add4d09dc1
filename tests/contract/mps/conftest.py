# SPDX-License-Identifier: MPL-2.0
"""Nodes whose MPS tools are fake, for one test each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from mps_control.control import install

from contract.mps.mps_node import MpsNode, Plugins
from nomad_nvidia_vgpu.sharing.mps import control as mps_tool
from nomad_nvidia_vgpu.sharing.mps import daemon as mps_daemon

PATIENT_S = 60.0


@pytest.fixture
def node(tmp_path: Path, mps_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MpsNode]:
    """Gives a node; ends its processes after the test. Commands have time: machines are busy."""
    fake = install(tmp_path / "bin")
    for name in [name for name in os.environ if name.startswith("CUDA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", fake.environment()["PATH"])
    monkeypatch.setattr(mps_tool, "ANSWER_S", PATIENT_S)
    monkeypatch.setattr(mps_tool, "START_S", PATIENT_S)
    monkeypatch.setattr(mps_daemon, "_END_S", PATIENT_S)
    with ExitStack() as stack:
        stack.callback(fake.stop_all)
        with ExitStack() as clients:
            yield MpsNode(fake, mps_root, clients)


@pytest.fixture
def plugins(node: MpsNode) -> Iterator[Plugins]:
    """Gives the plugins of one node; none holds anything after the test."""
    made = Plugins(node)
    yield made
    made.start()
