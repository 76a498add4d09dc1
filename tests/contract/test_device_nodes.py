# SPDX-License-Identifier: MPL-2.0
"""Reservations with device files, from a CDI specification of the pretended node."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cdi_node.node import CdiNode
from libnvidia_ml.driver import FakeDriver

from contract.conftest import PATIENCE_S, PROGRAM, Start, fact
from contract.fingerprints import healthy, until
from nomad_nvidia_vgpu.rpc.client import Refused


@pytest.fixture
def cdi(node: FakeDriver, tmp_path: Path) -> CdiNode:
    """The specification of a node with two GPUs of eight."""
    node.load("h100x8")
    made = CdiNode(tmp_path / "node")
    made.load("toolkit-1.17.yaml", uuids=(fact(node, "gpu 0", "uuid"), fact(node, "gpu 1", "uuid")))
    return made


def options(cdi: CdiNode, **more: Any) -> dict[str, Any]:
    """Gives a config that takes device files from there."""
    return {"vgpus": 2, "device_nodes": "cdi", "cdi_spec_dirs": list(cdi.directories), **more}


def test_a_task_gets_device_files_libraries_and_no_runtime(
    node: FakeDriver, cdi: CdiNode, start: Start
) -> None:
    """All that a container needs arrives over the wire, and not what would demand a runtime."""
    uuid = fact(node, "gpu 1", "uuid")
    found = start(node, **options(cdi)).reserve([f"{uuid}-1"])
    assert "/dev/nvidia0" in {device.task_path for device in found.devices}
    assert "/dev/nvidia1" not in {device.task_path for device in found.devices}
    assert all(Path(device.host_path).exists() for device in found.devices)
    libraries = {m.task_path: m for m in found.mounts}
    assert libraries["/usr/local/nvidia/lib64/libcuda.so.1"].read_only
    assert found.envs["CUDA_VISIBLE_DEVICES"] == uuid
    assert found.envs["NVIDIA_VGPU_IDS"] == f"{uuid}-1"
    assert found.envs["LD_LIBRARY_PATH"].startswith("/usr/local/nvidia/lib64")
    assert "NVIDIA_VISIBLE_DEVICES" not in found.envs


def test_without_the_option_a_task_gets_variables_alone(node: FakeDriver, start: Start) -> None:
    """Nomad loses mounts and device files, so nobody gets them unasked."""
    node.load("h100x8")
    found = start(node, vgpus=2).reserve([f"{fact(node, 'gpu 0', 'uuid')}-0"])
    assert (found.mounts, found.devices) == ((), ())


def test_a_gpu_without_a_specification_is_refused_and_stays_healthy(
    node: FakeDriver, cdi: CdiNode, start: Start
) -> None:
    """The task's event has the remedy; after it the next task is given its files."""
    host = start(node, **options(cdi))
    stream = host.fingerprints()
    before = healthy(until(stream, 8))
    uuid = fact(node, "gpu 2", "uuid")
    with pytest.raises(Refused, match=r"run `nvidia-ctk cdi generate --output=") as refused:
        host.reserve([f"{uuid}-0"])
    assert uuid in refused.value.text
    with pytest.raises(TimeoutError):
        stream.next_within(0.5)
    assert before
    cdi.load("toolkit-1.17.yaml", uuids=(uuid, fact(node, "gpu 1", "uuid")))
    assert host.reserve([f"{uuid}-0"]).devices


def test_a_node_without_any_specification_takes_the_config(
    node: FakeDriver, start: Start, tmp_path: Path
) -> None:
    """The config is judged by its text; what the node lacks is told to who reserves."""
    node.load("h100x8")
    host = start(node, vgpus=2, device_nodes="cdi", cdi_spec_dirs=[str(tmp_path / "none")])
    assert healthy(until(host.fingerprints(), 8))
    with pytest.raises(Refused, match="no CDI specification"):
        host.reserve([f"{fact(node, 'gpu 0', 'uuid')}-0"])
    assert not [line for line in host.logged("error") if "unforeseen" in line]


def test_a_plan_shows_the_files_or_why_a_task_would_not_start(
    node: FakeDriver, cdi: CdiNode
) -> None:
    """Before there is a task it is known what it will be given, or refused for, to scripts too."""

    def planned(*ignored: str) -> tuple[int, dict[str, Any]]:
        words = [word for directory in cdi.directories for word in ("--cdi-spec-dirs", directory)]
        words += [word for uuid in ignored for word in ("--ignored-gpu-ids", uuid)]
        done = subprocess.run(
            [PROGRAM, "plan", "--json", "--vgpus", "2", "--device-nodes", "cdi", *words],
            env={**os.environ, **node.environment()},
            stdout=subprocess.PIPE,
            timeout=PATIENCE_S,
            check=False,
        )
        return done.returncode, json.loads(done.stdout)

    uuids = [fact(node, f"gpu {number}", "uuid") for number in range(8)]
    status, document = planned()
    given = document["reservation"]
    assert given["envs"]["CUDA_VISIBLE_DEVICES"] in uuids[:2]
    assert given["devices"]
    refused = [s for s in document["warnings"] if "nvidia-ctk cdi generate" in s]
    assert status == 1
    assert [any(uuid in s for s in refused) for uuid in uuids] == [False] * 2 + [True] * 6
    status, document = planned(*uuids[2:])
    assert (status, document["warnings"]) == (0, [])
