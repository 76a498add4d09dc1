# SPDX-License-Identifier: MPL-2.0
"""Draws what `nvidia-vgpu top` and `plan` show: simulated GPUs, and tasks that are made up.

The same each time: `make docs` changes a picture only when the program would show something else.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nomad_nvidia_vgpu.cli.tables.top import guard_table, node_table
from nomad_nvidia_vgpu.config.blocks import MemoryGuardConfig
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.gpu.model import Ratio
from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus
from nomad_nvidia_vgpu.gpu.simulated import SimulatedSource
from nomad_nvidia_vgpu.gpu.survey import survey
from nomad_nvidia_vgpu.sharing.plan import SharedGpu, make_plan
from nomad_nvidia_vgpu.state.usage import (
    GpuUse,
    Share,
    StrayProcess,
    Task,
    TaskProcess,
    Usage,
    VgpuUse,
    parts_of,
)
from nomad_nvidia_vgpu.tasks.foresight import Foresight
from nomad_nvidia_vgpu.tasks.observer import Observation

DOCS = Path(__file__).parents[1] / "docs"
CAPTION = "simulated GPUs, made-up tasks"
WIDTH, HEIGHT = 120, 40

PLANNED = ("--vgpus", "8", "--sharing", "mps", "--simulate", "a100-sxm4-80gb:8")

_NOW_S = 1_780_000_000.0
_CONFIG = PluginConfig(
    vgpus=8,
    simulate=(SimulatedGpus("a100-sxm4-80gb", 1), SimulatedGpus("l4", 1)),
    memory_guard=MemoryGuardConfig("kill"),
)
_RESERVED_MIB = 610


class _Made(NamedTuple):
    """One task that nobody runs."""

    job: str
    group: str
    task: str
    allocation: str
    first: int
    vgpus: int
    memory_mib: tuple[int, ...]
    """One process each."""


_TASKS: Mapping[str, tuple[_Made, ...]] = {
    "NVIDIA A100-SXM4-80GB": (
        _Made("llm", "serve", "vllm", "3f1d9a70", 0, 4, (36_812,)),
        _Made("embeddings", "api", "server", "b7042c55", 4, 1, (4_100, 2_230)),
        _Made("notebooks", "lab", "jupyter", "91e6d3ab", 5, 1, (9_870, 2_004)),
    ),
    "NVIDIA L4": (_Made("transcribe", "worker", "whisper", "5aa8f0c4", 0, 2, (5_102,)),),
}


def observation() -> Observation:
    """A node that is not there."""
    found = survey(SimulatedSource(_CONFIG.simulate, clock=lambda: _NOW_S))
    plan = make_plan(_CONFIG, found.inventory)
    uses = {uuid: _use(shared) for uuid, shared in plan.by_uuid().items()}
    samples = {}
    for uuid, sample in found.samples.items():
        total = plan.by_uuid()[uuid].gpu.memory_mib
        shares = sum(share.used_mib or 0 for share in uses[uuid].shares)
        strays = sum(stray.memory_mib or 0 for stray in uses[uuid].strays)
        memory = Ratio(shares + strays + _RESERVED_MIB, total)
        samples[uuid] = sample.replaced(memory_mib=memory)
    taken_at = datetime.fromtimestamp(_NOW_S, tz=timezone.utc)
    return Observation(taken_at, plan, samples, Usage(taken_at, uses))


def _use(shared: SharedGpu) -> GpuUse:
    uuid = shared.gpu.uuid
    one_mib = shared.memory_mib(1)
    shares = []
    for place, made in enumerate(_TASKS[shared.gpu.model]):
        task = Task(
            key=made.allocation,
            certain=True,
            allocation=made.allocation,
            name=made.task,
            group=made.group,
            job=made.job,
        )
        ids = tuple(f"{uuid}-{number}" for number in range(made.first, made.first + made.vgpus))
        processes = tuple(
            TaskProcess(41_000 + 100 * place + n, n, mib, "compute")
            for n, mib in enumerate(made.memory_mib)
        )
        budget = shared.memory_mib(made.vgpus)
        shares.append(Share(task, uuid, ids, processes, sum(made.memory_mib), budget))
    vgpus = {str(vgpu): VgpuUse(0, one_mib, 0) for vgpu in shared.ids()}
    for share in shares:
        vgpus.update(parts_of(share, one_mib))
    strays: tuple[StrayProcess, ...] = ()
    if shared.gpu.model == "NVIDIA L4":
        strays = (StrayProcess(2_713, 310, "graphics", "it is in no task's cgroup"),)
    return GpuUse(uuid, 0.0, vgpus, tuple(shares), strays)


@functools.cache
def on_terminal(*arguments: str) -> str:
    """What `nvidia-vgpu` with these arguments writes on a terminal of 120 columns and 40 lines."""
    ours, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", HEIGHT, WIDTH, 0, 0))
    environment = {"PATH": os.defpath, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    written = bytearray()
    command = [sys.executable, "-m", "nomad_nvidia_vgpu", *arguments]
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment):
        os.close(terminal)
        # A terminal that its last writer has left fails to be read.
        with contextlib.suppress(OSError):
            while data := os.read(ours, 1 << 16):
                written += data
    os.close(ours)
    return written.decode().replace("\r\n", "\n").strip("\n")


def picture(shown: Table | Text, title: str, name: str) -> str:
    """A table, or what stood on a terminal, as SVG without fonts from elsewhere."""
    console = Console(
        record=True,
        width=WIDTH,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    console.print(shown)
    svg = console.export_svg(title=title, unique_id=name)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def _plan() -> str:
    shown = Text.from_ansi(on_terminal("plan", "--config", os.devnull, *PLANNED))
    return picture(shown, " ".join(("nvidia-vgpu plan", *PLANNED)), "plan")


def _top() -> str:
    return picture(node_table(observation(), bars=True), f"nvidia-vgpu top ({CAPTION})", "top")


def _explain() -> str:
    guard = _CONFIG.memory_guard
    table = guard_table(Foresight(guard).forecasts(observation().usage), guard.action, bars=True)
    return picture(table, f"nvidia-vgpu top --explain ({CAPTION})", "explain")


PICTURES: Mapping[Path, Callable[[], str]] = {
    DOCS / "plan.svg": _plan,
    DOCS / "top.svg": _top,
    DOCS / "top-explain.svg": _explain,
}
"""What draws each picture, by its place."""


if __name__ == "__main__":
    for path, draw in PICTURES.items():
        path.write_text(draw(), encoding="utf-8")
    sys.exit(0)
