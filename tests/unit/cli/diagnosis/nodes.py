# SPDX-License-Identifier: MPL-2.0
"""Nodes below a test's own directory, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nomad_nvidia_vgpu.cli.diagnosis.docker_api import DockerLook
from nomad_nvidia_vgpu.cli.diagnosis.driver_look import DriverLook, PhysicalGpu
from nomad_nvidia_vgpu.cli.diagnosis.facts import Configured, Facts, read_config
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level, Verdict
from nomad_nvidia_vgpu.cli.diagnosis.node import Node
from nomad_nvidia_vgpu.cli.diagnosis.nomad_api import ApiGroup, NomadLook
from nomad_nvidia_vgpu.cli.diagnosis.running import NOBODY, Running, RunningAgent
from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.gpu.model import Gpu, SeenGpu
from nomad_nvidia_vgpu.sharing.mps.view import DaemonView
from unit.example_gpus import inventory

ADDRESS = "http://127.0.0.1:4646"
FIGURES = "telemetry {\n publish_allocation_metrics = true\n}\n"
NO_NOMAD = NomadLook(ADDRESS, "refuses connections", refused=True)


def node(root: Path, programs: Iterable[str] = (), **ways: Any) -> Node:
    """A node whose files are below `root` and that has these programs."""
    there = set(programs)
    found: dict[str, Any] = {
        "proc": root / "proc",
        "sys": root / "sys",
        "etc": root / "etc",
        "run": root / "run",
        "dev": root / "dev",
        "name": "n1",
        "environment": {},
        "which": lambda program, _path: f"/usr/bin/{program}" if program in there else None,
        "label": lambda _path: None,
        "refusal": lambda _program, _paths: None,
        "mps_server": lambda tool, _path: f"{tool}-server",
    }
    (root / "proc").mkdir(exist_ok=True)
    return Node(**{**found, **ways})


def written(path: Path, text: str) -> Path:
    """A file with this text, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def driver(*gpus: Gpu | SeenGpu, **says: Any) -> DriverLook:
    """A driver with these GPUs."""
    listed = inventory(*gpus)
    parts: dict[str, list[str]] = {}
    for seen in listed.gpus:
        parts.setdefault(seen.gpu.parent_uuid or seen.gpu.uuid, []).append(seen.gpu.uuid)
    physical = tuple(PhysicalGpu(uuid, tuple(of)) for uuid, of in parts.items())
    return DriverLook(**{"inventory": listed, "physical": physical, **says})


def facts(  # noqa: PLR0913  each has a default, and is named
    root: Path,
    *,
    options: str | None = "vgpus = 4",
    look: DriverLook | None = None,
    daemons: Sequence[DaemonView] | str = (),
    nomad: NomadLook = NO_NOMAD,
    on: Node | None = None,
    running: Running = NOBODY,
    docker: DockerLook | None = None,
    more: str = "",
) -> Facts:
    """What is known of a node below `root` whose plugin block has these options (None: no block).

    `more` is HCL beside that block. Without `docker` nobody listens at docker's socket.
    """
    block = "" if options is None else f'plugin "nvidia-vgpu" {{\n config {{\n{options}\n }}\n}}\n'
    rest = f'plugin_dir = "{root}/plugins"\nclient {{\n enabled = true\n}}\n{FIGURES}'
    file = written(root / "nomad.d" / "agent.hcl", f"{rest}{block}{more}")
    return Facts(
        on or node(root),
        read_config([file]),
        look or driver(),
        daemons if isinstance(daemons, str) else tuple(daemons),
        nomad,
        running,
        docker or DockerLook(str(root / "run/docker.sock"), "is not there"),
    )


def unread(root: Path, *problems: Problem) -> Facts:
    """A node whose agent's configuration has these problems."""
    return Facts(node(root), Configured(problems=problems), driver(), (), NO_NOMAD)


def offered(*groups: ApiGroup, **says: Any) -> NomadLook:
    """Nomad offers these groups."""
    return NomadLook(ADDRESS, **{"version": "1.11.3", "node_id": "id-1", "groups": groups, **says})


def group(
    name: str, ids: Iterable[str], vendor: str = "letmutx", sick: Mapping[str, str] | None = None
) -> ApiGroup:
    """A device group as Nomad's API shows it."""
    return ApiGroup(vendor, "gpu", name, {vgpu: (sick or {}).get(vgpu, "") for vgpu in ids})


def agent(**says: Any) -> RunningAgent:
    """An agent of root's that runs."""
    found: dict[str, Any] = {"pid": 40, "uid": 0, "client": False, "path": "/usr/bin"}
    return RunningAgent(**{**found, **says})


def said(look: Callable[[Facts], Iterable[Verdict]], known: Facts) -> list[tuple[Level, str]]:
    """Level and words of each verdict; all but those that are ok have a remedy."""
    verdicts = list(look(known))
    assert all(bool(verdict.remedy) is (verdict.level is not Level.OK) for verdict in verdicts), (
        verdicts
    )
    return [(verdict.level, f"{verdict.sentence} | {verdict.remedy}") for verdict in verdicts]


def levels(look: Callable[[Facts], Iterable[Verdict]], known: Facts) -> list[Level]:
    """The level of each verdict."""
    return [level for level, _ in said(look, known)]


def assert_one(
    look: Callable[[Facts], Iterable[Verdict]], known: Facts, level: Level, *words: str
) -> None:
    """The only verdict is of this level, and has these words."""
    found = said(look, known)
    assert [of for of, _ in found] == [level], found
    assert all(word in found[0][1] for word in words), found
