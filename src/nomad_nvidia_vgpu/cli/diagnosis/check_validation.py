# SPDX-License-Identifier: MPL-2.0
"""What Nomad itself says of the agent's files."""

from __future__ import annotations

from collections.abc import Iterator

from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Verdict, error, ok, warning


def validation(facts: Facts) -> Iterator[Verdict]:
    """Whether `nomad config validate` takes the files."""
    agent = facts.configured.agent
    if agent is None:
        return
    program = facts.which("nomad")
    if program is None:
        yield ok("no nomad is in PATH, so `nomad config validate` was not asked")
        return
    said = facts.node.refusal(program, agent.files)
    if said is None:
        yield ok("`nomad config validate` has nothing against the agent's files")
    elif said.unreadable:
        yield error(f"`nomad config validate` says: {said.text}", "correct that; restart the agent")
    elif facts.running.agent is not None:
        yield ok("the agent that runs was told on its command line what its files lack")
    else:
        yield warning(
            f"`nomad config validate` says: {said.text}",
            "add that, unless the agent's command line says it",
        )
