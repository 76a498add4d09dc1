# SPDX-License-Identifier: MPL-2.0
"""All checks, by subject. To add one, write its function and its line here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from nomad_nvidia_vgpu.cli.diagnosis import (
    check_agent_process,
    check_cdi,
    check_containers,
    check_docker,
    check_driver,
    check_gpus,
    check_mps,
    check_nomad,
    check_offers,
    check_selinux,
    check_tasks,
    check_validation,
)
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Verdict


class Check(NamedTuple):
    """One question about a node."""

    subject: str
    name: str
    """For machines and for the docs: it stays, whatever the sentences say."""
    look: Callable[[Facts], Iterable[Verdict]]
    """Changes nothing; may hang. Says nothing when what it needs is not known, which is the
    finding of another check."""


CHECKS = (
    Check("driver", "library", check_driver.library),
    Check("driver", "kernel-module", check_driver.module),
    Check("gpus", "answers", check_gpus.answers),
    Check("gpus", "health", check_gpus.health),
    Check("gpus", "queries", check_gpus.queries),
    Check("gpus", "mig", check_gpus.mig),
    Check("gpus", "division", check_gpus.division),
    Check("mps", "tools", check_mps.tools),
    Check("mps", "compute-modes", check_mps.compute_modes),
    Check("mps", "daemons", check_mps.daemons),
    Check("mps", "permissions", check_mps.permissions),
    Check("selinux", "labels", check_selinux.labels),
    Check("containers", "docker", check_docker.docker),
    Check("containers", "cgroups", check_docker.cgroups),
    Check("containers", "toolkit", check_containers.toolkit),
    Check("containers", "memory-limits", check_containers.memory_limits),
    Check("containers", "podman", check_containers.podman),
    Check("containers", "cdi", check_cdi.specification),
    Check("nomad", "version", check_nomad.version),
    Check("nomad", "agent-config", check_nomad.agent_config),
    Check("nomad", "validation", check_validation.validation),
    Check("nomad", "agent-process", check_agent_process.rights),
    Check("nomad", "plugin-files", check_nomad.plugin_files),
    Check("nomad", "api", check_nomad.api),
    Check("nomad", "groups", check_offers.groups),
    Check("nomad", "sold-twice", check_offers.sold_twice),
    Check("nomad", "tasks", check_tasks.held),
    Check("nomad", "attribution", check_tasks.attribution),
)
