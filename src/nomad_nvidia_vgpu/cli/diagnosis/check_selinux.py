# SPDX-License-Identifier: MPL-2.0
"""SELinux: whether containers may reach what the plugin gives them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Verdict, ok, warning
from nomad_nvidia_vgpu.sharing.mps.layout import pipe_directory

_FOR_CONTAINERS = "container_file_t"


def labels(facts: Facts) -> Iterator[Verdict]:
    """Whether SELinux lets containers into the pipe directories of the MPS daemons."""
    try:
        enforcing = (facts.node.sys / "fs/selinux/enforce").read_text().strip() == "1"
    except OSError:
        yield ok("SELinux is not in use")
        return
    if not enforcing:
        yield ok("SELinux only warns")
        return
    wrong = {}
    for view in facts.daemon_views:
        pipe = Path(pipe_directory(facts.config.mps, view.uuid))
        label = facts.node.label(pipe)
        if pipe.exists() and (label is None or _FOR_CONTAINERS not in label.split(":")):
            wrong[pipe] = label
    for pipe, label in wrong.items():
        yield warning(
            f"SELinux keeps containers out of {pipe}, which is labelled {label or 'not at all'}",
            f"chcon -Rt {_FOR_CONTAINERS} {pipe}, if containers are to use MPS",
        )
    if not wrong:
        yield ok("SELinux is enforcing, and nothing of this plugin needs another label")
