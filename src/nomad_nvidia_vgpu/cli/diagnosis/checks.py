# SPDX-License-Identifier: MPL-2.0
"""All checks, by subject. To add one, write its function and its line here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from nomad_nvidia_vgpu.cli.diagnosis import (
    agent_process,
    cdi,
    containers,
    driver,
    gpus,
    mps,
    nomad,
    offers,
    selinux,
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
    Check("driver", "library", driver.library),
    Check("driver", "kernel-module", driver.module),
    Check("gpus", "answers", gpus.answers),
    Check("gpus", "health", gpus.health),
    Check("gpus", "queries", gpus.queries),
    Check("gpus", "mig", gpus.mig),
    Check("gpus", "division", gpus.division),
    Check("mps", "tools", mps.tools),
    Check("mps", "compute-modes", mps.compute_modes),
    Check("mps", "daemons", mps.daemons),
    Check("mps", "permissions", mps.permissions),
    Check("selinux", "labels", selinux.labels),
    Check("containers", "docker", containers.docker),
    Check("containers", "toolkit", containers.toolkit),
    Check("containers", "podman", containers.podman),
    Check("containers", "cdi", cdi.specification),
    Check("nomad", "version", nomad.version),
    Check("nomad", "agent-config", nomad.agent_config),
    Check("nomad", "agent-process", agent_process.rights),
    Check("nomad", "plugin-files", nomad.plugin_files),
    Check("nomad", "api", nomad.api),
    Check("nomad", "groups", offers.groups),
    Check("nomad", "sold-twice", offers.sold_twice),
)
