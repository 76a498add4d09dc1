# SPDX-License-Identifier: MPL-2.0
"""The agent that runs: whether it can do what the plugin needs. Silent where none is seen."""

from __future__ import annotations

from collections.abc import Iterator

from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Verdict, error, ok, warning
from nomad_nvidia_vgpu.cli.diagnosis.running import RunningAgent

_SYSTEMCTL = "systemctl"
_LEFT_ALONE = ("process", "none")


def rights(facts: Facts) -> Iterator[Verdict]:
    """Whether the agent that runs is root's, and leaves MPS daemons to their tasks when it ends."""
    agent = facts.running.agent
    if agent is None:
        return
    verdicts = []
    if agent.uid not in (0, None):
        verdicts.append(
            error(
                f"the Nomad agent (pid {agent.pid}) runs as uid {agent.uid} and not as root, so the"
                " plugin may not see the processes of tasks, nor open the GPUs",
                "run the agent as root (no User= in its systemd unit)",
            )
        )
    verdicts += _kill_mode(facts, agent)
    yield from verdicts or [ok(f"the Nomad agent that runs (pid {agent.pid}) has what is needed")]


def _kill_mode(facts: Facts, agent: RunningAgent) -> Iterator[Verdict]:
    """Where systemd would end the daemons, which are in the agent's cgroup, together with it."""
    program = facts.node.which(_SYSTEMCTL)
    if agent.unit is None or program is None or not facts.config.shares_by("mps"):
        return
    try:
        said = facts.node.output([program, "show", "-p", "KillMode", "--", agent.unit])
    except OSError:
        return  # not by systemd that this user can ask
    _, _, mode = said.strip().partition("=")
    if mode and mode not in _LEFT_ALONE:
        yield warning(
            f"systemd's unit {agent.unit} has KillMode={mode}, so the MPS daemons, and with them"
            " their tasks, end when the Nomad agent is stopped or restarted",
            f"systemctl edit {agent.unit}, and write KillMode=process below [Service]",
        )
