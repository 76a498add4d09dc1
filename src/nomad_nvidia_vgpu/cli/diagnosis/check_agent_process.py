# SPDX-License-Identifier: MPL-2.0
"""The agent that runs: whether it can do what the plugin needs. Silent where none is seen."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Verdict, error, ok, warning
from nomad_nvidia_vgpu.cli.diagnosis.running import RunningAgent

_SYSTEMCTL = "systemctl"
_LEFT_ALONE = ("process", "none")


def rights(facts: Facts) -> Iterator[Verdict]:
    """Whether the agent that runs is root's, and leaves MPS daemons to their tasks when it ends."""
    agent = facts.running.agent
    if facts.running.problem:
        yield warning(
            f"the Nomad agent that runs {facts.running.problem}, so what this command sees itself is"
            " taken for what the plugin sees",
            "see `ps axl` for what hangs on this node",
        )
    if agent is None or agent.uid is None:
        return
    if agent.uid == 0:
        yield ok(f"the Nomad agent that runs (pid {agent.pid}) is root's")
    else:
        yield error(
            f"the Nomad agent (pid {agent.pid}) runs as uid {agent.uid} and not as root, so the"
            " plugin may not see the processes of tasks, nor open the GPUs",
            "run the agent as root (no User= in its systemd unit)",
        )
    yield from _kill_mode(facts, agent)


def _kill_mode(facts: Facts, agent: RunningAgent) -> Iterator[Verdict]:
    """Where systemd would end the daemons, which are in the agent's cgroup, together with it."""
    program = facts.which(_SYSTEMCTL)
    if agent.unit is None or program is None or not facts.config.shares_by("mps"):
        return
    try:
        said = facts.output(
            [program, "show", "-p", "KillMode", "-p", "ControlGroup", "--", agent.unit]
        )
    except OSError:
        return  # not by systemd that this user can ask
    found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    # Of a unit that it does not know systemd tells the defaults.
    if not f"{agent.cgroup}/".startswith(f"{found.get('ControlGroup') or 'none'}/"):
        return
    mode = found.get("KillMode")
    if mode and mode not in _LEFT_ALONE:
        yield warning(
            f"systemd's unit {agent.unit} has KillMode={mode}, so the MPS daemons, and with them"
            " their tasks, end when the Nomad agent is stopped or restarted",
            f"systemctl edit {shlex.quote(agent.unit)}, and write KillMode=process below [Service]",
        )
