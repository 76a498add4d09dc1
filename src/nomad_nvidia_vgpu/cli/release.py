# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu release`: takes off this node what the plugin left running for its tasks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from nomad_nvidia_vgpu.cli.config_options import (
    ConfiguredCommand,
    Given,
    config_options,
    given_config,
    node_config,
)
from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.errors import ConfigError, Problem
from nomad_nvidia_vgpu.gpu.source import source_of
from nomad_nvidia_vgpu.host.files import exposed
from nomad_nvidia_vgpu.sharing.mps.enforcer import MpsEnforcer


@click.command(cls=ConfiguredCommand, short_help="End the MPS daemons that no task uses.")
@config_options
def release(*, paths: Sequence[Path], **flags: Any) -> int:
    """End the MPS daemons that no task uses, and restore compute modes.

    For a node that is to offer no GPUs any more: a plugin that stops leaves both, since tasks
    outlive an agent's restart. Stop the Nomad agent and the tasks first. Exit status 1 when
    something has to stay.
    """
    config = _given(paths, flags).checked(any_size=True)
    if config.simulate:
        style.note("simulated GPUs have no MPS daemons: nothing to release")
        return 0
    _check_root(config.mps.root)
    source = source_of(())
    source.open()
    enforcer = MpsEnforcer(config.mps, source)
    left = enforcer.left_over()
    problems = {uuid: enforcer.release(uuid) for uuid in left}
    for uuid, problem in problems.items():
        style.note(f"nvidia-vgpu: {problem}" if problem else f"{uuid}: released")
    if not left:
        style.note(f"nothing to release under {config.mps.root}")
    return int(any(problems.values()))


def _check_root(root: str) -> None:
    """ConfigError where others could have root remove, or write to, what is theirs to choose."""
    found = exposed(root, {0, os.geteuid()}) if os.path.lexists(root) else None
    if found is not None:
        who, remedy = found
        raise ConfigError([Problem(f"{who}, so mps.root {root} is not touched", remedy)])


def _given(paths: Sequence[Path], flags: dict[str, Any]) -> Given:
    """The options, of the agent's own files only where nothing says where the daemons are."""
    if paths or flags["mps_root"]:
        return given_config(paths, flags)
    try:
        return node_config((), flags, needed=True)
    except ConfigError as error:
        remedy = (
            "so where the MPS daemons of this node are is not known: fix that, or say --config or"
            " --mps-root"
        )
        raise ConfigError([*error.problems, remedy]) from error
