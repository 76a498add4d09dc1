# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu plan`: what this node would publish with a config, without starting anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nomad_nvidia_vgpu.cli import tables
from nomad_nvidia_vgpu.cli.config_options import checked_config, config_options, given_config
from nomad_nvidia_vgpu.cli.group_tables import group_documents, group_tables
from nomad_nvidia_vgpu.config.decode import UNCONFIGURED
from nomad_nvidia_vgpu.device.fingerprint import device_groups
from nomad_nvidia_vgpu.gpu.model import Inventory
from nomad_nvidia_vgpu.gpu.source import source_of
from nomad_nvidia_vgpu.gpu.survey import survey
from nomad_nvidia_vgpu.sharing.plan import make_plan


@click.command()
@config_options
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def plan(*, config_file: Path | None, as_json: bool, **flags: Any) -> None:
    """Show what this node would publish with a config."""
    config = checked_config(given_config(config_file, flags))
    notes = []
    if not config.configured:
        notes.append(UNCONFIGURED if config.enabled else "enabled is false: nothing is published")
    found = survey(source_of(config.simulate)) if config.configured else None
    planned = make_plan(config, found.inventory if found else Inventory())
    notes += [*planned.warnings, *(found.problems if found else ())]
    groups = device_groups(planned, config.vendor)
    if as_json:
        tables.show_json({"groups": group_documents(groups), "warnings": notes})
    elif groups:
        tables.show(*group_tables(groups))
    else:
        notes.append("this node would publish nothing")
    for sentence in notes:
        tables.note(f"nvidia-vgpu: {sentence}")
