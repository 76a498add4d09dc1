# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu gpus`: the GPUs of this node, as the plugin would see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from nomad_nvidia_vgpu.cli.config_options import (
    ConfiguredCommand,
    config_options,
    given_config,
    node_config,
)
from nomad_nvidia_vgpu.cli.running_view import running_view
from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.cli.tables.daemons import mps_tables
from nomad_nvidia_vgpu.cli.tables.policy import by_index
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import ConfigError
from nomad_nvidia_vgpu.gpu.model import GpuSample, Ratio, SeenGpu
from nomad_nvidia_vgpu.gpu.source import source_of
from nomad_nvidia_vgpu.gpu.survey import Survey, survey
from nomad_nvidia_vgpu.sharing.mps.view import daemon_views

_COLUMNS = (
    "GPU",
    "UUID",
    "Model",
    "PCI bus",
    "Memory MiB",
    "Power W",
    "GPU %",
    "°C",
    "MIG",
    "Driver",
    "CUDA",
    "Health",
)


@click.command(cls=ConfiguredCommand, short_help="Show the GPUs of this node and how they fare.")
@config_options
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@click.option("--facts", is_flag=True, help="Every lasting fact of each GPU.")
def gpus(*, paths: Sequence[Path], as_json: bool, facts: bool, **flags: Any) -> int:
    """Show the GPUs of this node, ignored ones too: what they are, how they fare.

    And the MPS daemons that this plugin keeps, with the limits in force and their clients. A GPU that
    the plugin which runs holds back says so, by Nomad's API. Exit status 1 when a GPU is unhealthy,
    held back or will not answer, or a daemon does not work.
    """
    config = _config(paths, flags)
    found = survey(source_of(config.simulate))
    view = running_view(paths)
    held = view.among(seen.gpu.uuid for seen in found.inventory.gpus)
    daemons = () if config.simulate else daemon_views(config.mps)
    if as_json:
        document = {**_document(found, held), "view": view.source}
        style.show_json({**document, "mps": [daemon._asdict() for daemon in daemons]})
    elif facts:
        style.show(*(_facts(seen) for seen in found.inventory.gpus), *mps_tables(daemons))
    else:
        rows = [
            _row(seen, found.samples.get(seen.gpu.uuid), held.get(seen.gpu.uuid))
            for seen in sorted(found.inventory.gpus, key=lambda seen: by_index(seen.gpu))
        ]
        style.show(style.table("GPUs", _COLUMNS, rows, common_once=True), *mps_tables(daemons))
    if not as_json:
        style.note(f"nvidia-vgpu: {view.source}")
    for problem in found.problems:
        style.note(f"nvidia-vgpu: {problem}")
    if not found.inventory.gpus and not found.problems:
        style.note("nvidia-vgpu: the driver lists no GPU that could be offered on this node")
    well = all(seen.health.healthy for seen in found.inventory.gpus)
    working = all(daemon.working for daemon in daemons)
    return int(bool(found.problems or held) or not well or not working)


def _config(paths: Sequence[Path], flags: dict[str, Any]) -> PluginConfig:
    """The config; a slip in files that nobody named is no reason to show nothing."""
    try:
        return node_config(paths, flags).checked(any_size=True)
    except ConfigError as error:
        if paths:
            raise
        config = given_config((), flags).checked(any_size=True)
        style.note(f"nvidia-vgpu: shown without the agent's options: {'; '.join(error.problems)}")
        return config


def _row(seen: SeenGpu, sample: GpuSample | None, held: str | None) -> tuple[object, ...]:
    gpu = seen.gpu
    health = "healthy" if seen.health.healthy else seen.health.reason
    return (
        gpu.driver_index,
        gpu.uuid,
        gpu.model,
        gpu.pci_bus_id,
        _ratio(sample.memory_mib if sample else None) or gpu.memory_mib,
        _ratio(sample.power_w if sample else None),
        sample.gpu_utilization_percent if sample else None,
        sample.temperature_c if sample else None,
        gpu.mig_profile,
        gpu.driver_version,
        gpu.cuda_driver_version,
        f"held back by the plugin: {held}" if held else health,
    )


def _ratio(ratio: Ratio | None) -> str | None:
    if ratio is None:
        return None
    return str(ratio.value) if ratio.total is None else f"{ratio.value} / {ratio.total}"


def _facts(seen: SeenGpu) -> Any:
    rows = [
        (name, value)
        for name, value in seen.gpu._asdict().items()
        if value is not None and value is not False
    ]
    return style.table(seen.gpu.uuid, ("Fact", "Value"), rows)


def _document(found: Survey, held: Mapping[str, str]) -> dict[str, object]:
    return {
        "gpus": [
            {
                **{k: v for k, v in seen.gpu._asdict().items() if v is not None},
                "healthy": seen.health.healthy,
                "health_description": seen.health.reason,
                "held_back": held.get(seen.gpu.uuid),
                "sample": _sample(found.samples.get(seen.gpu.uuid)),
            }
            for seen in found.inventory.gpus
        ],
        "problems": list(found.problems),
    }


def _sample(sample: GpuSample | None) -> dict[str, object] | None:
    if sample is None:
        return None
    figures = {
        name: value._asdict() if isinstance(value, Ratio) else value
        for name, value in sample.figures.items()
    }
    return {"taken_at": sample.taken_at.isoformat(), **figures}
