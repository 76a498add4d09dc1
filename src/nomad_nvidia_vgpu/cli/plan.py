# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu plan`: what this node would publish with a config, and why; starts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from nomad_nvidia_vgpu.cli.config_options import (
    ConfiguredCommand,
    config_options,
    node_config,
)
from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.cli.tables.groups import group_documents, group_tables
from nomad_nvidia_vgpu.cli.tables.policy import decisions, policy_documents, policy_table
from nomad_nvidia_vgpu.cli.tables.reservation import (
    reservation_document,
    reservation_table,
    sampled,
)
from nomad_nvidia_vgpu.config.decode import UNCONFIGURED
from nomad_nvidia_vgpu.device.fingerprint import device_groups
from nomad_nvidia_vgpu.device.reserve import node_source, reserve
from nomad_nvidia_vgpu.errors import RequestError
from nomad_nvidia_vgpu.gpu.model import Inventory
from nomad_nvidia_vgpu.gpu.source import source_of
from nomad_nvidia_vgpu.gpu.survey import survey
from nomad_nvidia_vgpu.sharing.container_limit import within_means
from nomad_nvidia_vgpu.sharing.plan import make_plan


@click.command(cls=ConfiguredCommand, short_help="Show what this node would publish, and why.")
@config_options
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def plan(*, paths: Sequence[Path], as_json: bool, **flags: Any) -> int:
    """Show what this node would publish with a config, and what decides it for each GPU.

    And what a task would be given. With --simulate, what a node with other GPUs would. Exit status
    1 when it cannot be decided how to divide a GPU, or a task would be refused one.
    """
    config, lacking = within_means(node_config(paths, flags).checked())
    notes: list[str] = [*lacking]
    if not config.configured:
        notes.append(UNCONFIGURED if config.enabled else "enabled is false: nothing is published")
    found = survey(source_of(config.simulate)) if config.configured else None
    inventory = found.inventory if found else Inventory()
    planned = make_plan(config, inventory)
    made = decisions(config, inventory, planned) if found else []
    notes += [*planned.warnings, *(found.problems if found else ())]
    groups = device_groups(planned, config.vendor)
    nodes = node_source(config)
    sample, refused = sampled(
        groups, lambda ids: reserve(config, planned, ids, nodes), RequestError
    )
    notes += refused
    if as_json:
        style.show_json(
            {
                "groups": group_documents(groups),
                "gpus": policy_documents(made),
                "reservation": reservation_document(sample),
                "warnings": notes,
            }
        )
    else:
        style.show(*(group_tables(groups) if groups else ()))
        style.show(*([policy_table(made)] if made else []))
        style.show(*([reservation_table(sample)] if sample else []))
    if not groups:
        notes.append("this node would publish nothing")
    for sentence in notes:
        style.note(f"nvidia-vgpu: {sentence}")
    return int(bool(refused) or any(decision.policy.problem for decision in made))
