# SPDX-License-Identifier: MPL-2.0
"""A process that opens a GPU and stays: what a task is to its MPS server."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import this_run
from mps_control.control import FakeMps

PATIENCE_S = 60.0


class CudaProcess(NamedTuple):
    """One that has opened the GPU."""

    pid: int
    facts: Mapping[str, Any]
    """What it found there: `server`, `memory_mib`, `percentage`, `error`."""


@contextmanager
def cuda_process(mps: FakeMps, environment: Mapping[str, str]) -> Iterator[CudaProcess]:
    """Gives one with this environment besides PATH; it ends with the block."""
    with subprocess.Popen(
        [mps.client, "--hold"],
        env={"PATH": os.environ["PATH"], **this_run.MARK, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            facts = json.loads(process.stdout.readline())
            yield CudaProcess(process.pid, facts)
        finally:
            process.kill()
            process.wait(PATIENCE_S)


def opened(mps: FakeMps, environment: Mapping[str, str]) -> Mapping[str, Any]:
    """What a process with this environment finds; it ends at once."""
    with cuda_process(mps, environment) as process:
        return process.facts
