# SPDX-License-Identifier: MPL-2.0
"""A real GPU, or a skip that says why there is none."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cookie import COOKIE_KEY, COOKIE_VALUE, PROTOCOL_VERSION
from nomad_nvidia_vgpu.goplugin.handshake import Handshake
from nomad_nvidia_vgpu.rpc.client import Host

PROGRAM = Path(sys.executable).with_name("nvidia-vgpu")

QUERIES = (
    "uuid",
    "name",
    "memory.total",
    "power.limit",
    "clocks.max.sm",
    "clocks.max.memory",
    "driver_version",
    "pci.bus_id",
    "compute_cap",
    "temperature.gpu",
    "mig.mode.current",
)


@pytest.fixture(scope="session")
def nvidia_smi() -> list[dict[str, str]]:
    """What NVIDIA's own tool says of each GPU."""
    if shutil.which("nvidia-smi") is None:
        pytest.skip("no nvidia-smi here: these tests need a GPU and its driver")
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERIES)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        pytest.skip(f"nvidia-smi fails: {done.stdout.strip() or done.stderr.strip()}")
    rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
    return [dict(zip(QUERIES, row, strict=True)) for row in rows]


@pytest.fixture
def plugin(nvidia_smi: list[dict[str, str]]) -> Iterator[Host]:
    """The installed program under the built-in host, with 4 vGPUs per GPU in groups of one GPU."""
    handshake = Handshake(COOKIE_KEY, COOKIE_VALUE, PROTOCOL_VERSION)
    with Host([str(PROGRAM)], handshake) as host:
        host.set_config({"vgpus": 4, "group_by": "gpu", "fingerprint_period": "1s"})
        yield host
