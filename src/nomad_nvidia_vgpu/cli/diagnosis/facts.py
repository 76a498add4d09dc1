# SPDX-License-Identifier: MPL-2.0
"""What several checks need and what takes long to learn, gathered once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from nomad_nvidia_vgpu.cli.agent.config import AgentConfig, read_agent_config
from nomad_nvidia_vgpu.cli.agent.given import checked_config, with_any_size
from nomad_nvidia_vgpu.cli.cluster.connection import DEFAULT_ADDRESS, without_login
from nomad_nvidia_vgpu.cli.diagnosis.docker_api import NOT_ASKED, DockerLook
from nomad_nvidia_vgpu.cli.diagnosis.driver_look import DriverLook
from nomad_nvidia_vgpu.cli.diagnosis.limited import Child, ChildFailedError, OverTimeError
from nomad_nvidia_vgpu.cli.diagnosis.node import Node
from nomad_nvidia_vgpu.cli.diagnosis.nomad_api import NomadLook
from nomad_nvidia_vgpu.cli.diagnosis.running import NOBODY, Running, look_at_running
from nomad_nvidia_vgpu.cli.tables.groups import device_name
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device.fingerprint import DeviceGroup, device_groups
from nomad_nvidia_vgpu.errors import ConfigError, Problem
from nomad_nvidia_vgpu.sharing.mps.view import DaemonView
from nomad_nvidia_vgpu.sharing.plan import Plan, make_plan

SETTLED_S = 20.0
"""How old an agent is at the most when Nomad knows all that its node offers: a node is ready before
its devices are known, and they are told in batches."""

_AGAIN_S = 0.5
_LATE = "does not answer in time"

_T = TypeVar("_T")


class Configured(NamedTuple):
    """What the agent's files say."""

    agent: AgentConfig | None = None
    """None: they cannot be read."""
    config: PluginConfig = PluginConfig()
    """Of our block; the defaults where there is none. Of a wrong one, `simulate` if that is right:
    the GPUs of a node that has none are not to be the first thing that it is told of."""
    problems: tuple[Problem, ...] = ()
    """Of the files, one sentence each."""
    option_problems: tuple[Problem, ...] = ()
    """Of the options in our block, one sentence each."""


@dataclass(frozen=True)
class Facts:
    """What is known of a node."""

    node: Node
    configured: Configured
    driver: DriverLook
    daemons: tuple[DaemonView, ...] | str
    """The daemons under `mps.root`; or why they are not known, as half a sentence."""
    nomad: NomadLook
    running: Running = NOBODY
    docker: DockerLook = NOT_ASKED

    @property
    def agent_uid(self) -> int:
        """The user that the plugin trusts beside root: the agent's, by default our own.

        Of another user's it is only known that he calls it an agent.
        """
        agent = self.running.agent
        return 0 if agent is not None and agent.uid == 0 else self.node.uid

    @property
    def path(self) -> str | None:
        """The agent's PATH, which its plugin has too: what counts on this node; None: not known."""
        agent = self.running.agent
        return None if agent is None else agent.path

    def which(self, program: str) -> str | None:
        """Where a program is for the agent; where that is not known, for this command."""
        return self.node.which(program, self.path)

    def output(self, command: Sequence[str]) -> str:
        """What a program prints when the agent starts it, or where that is not known we; OSError."""
        return self.node.output(command, self.path)

    @property
    def daemon_views(self) -> tuple[DaemonView, ...]:
        """The daemons, as far as they are known."""
        return () if isinstance(self.daemons, str) else self.daemons

    @property
    def config(self) -> PluginConfig:
        """What our block says."""
        return self.configured.config

    @property
    def plan(self) -> Plan:
        """What this node would publish."""
        return make_plan(self.config, self.driver.inventory)

    @property
    def groups(self) -> tuple[DeviceGroup, ...]:
        """The same as Nomad would be told."""
        return device_groups(self.plan, self.config.vendor)


def gathered(node: Node, paths: Sequence[Path], limit_s: float) -> Facts:
    """The facts; takes twice `limit_s` at most, whatever hangs.

    And SETTLED_S more where an agent has just started: its operator asks next whether
    all is well, and Nomad cannot know yet.
    """
    with Child(lambda: read_config(paths)) as reading:
        configured = _within(
            reading,
            time.monotonic() + limit_s,
            lambda why: Configured(
                problems=(Problem(f"the agent's configuration {why}", "look at its disk"),)
            ),
        )
    config = configured.config
    environment = towards_nomad(node.environment, configured.agent)
    ask = partial(_asked_nomad, node, environment)
    with ExitStack() as stack:
        driver = stack.enter_context(Child(lambda: node.driver(config.simulate)))
        daemons = stack.enter_context(Child(lambda: _daemons(node, config, configured.agent)))
        running = stack.enter_context(Child(lambda: look_at_running(node.proc, configured.agent)))
        socket = _docker_socket(node, configured.agent)
        docker = stack.enter_context(Child(lambda: node.docker(socket)))
        deadline = time.monotonic() + limit_s
        nomad = ask(limit_s)
        facts = Facts(
            node,
            configured,
            _within(
                driver,
                deadline,
                lambda why: DriverLook(
                    problem=Problem(
                        f"the NVIDIA driver {why}", "see dmesg, drain the node and reboot it"
                    )
                ),
            ),
            _within(daemons, deadline, lambda why: why),
            nomad,
            _within(running, deadline, lambda why: Running(problem=why)),
            _within(docker, deadline, lambda why: DockerLook(str(socket), why)),
        )
    return _settled(facts, ask)


def _docker_socket(node: Node, agent: AgentConfig | None) -> Path:
    """Where Nomad's docker driver meets dockerd."""
    block = agent.block_of("docker") if agent is not None else None
    scheme, _, path = str(block.options.get("endpoint") if block else "").partition("://")
    return Path(path) if scheme == "unix" and path else node.run / "docker.sock"


def _asked_nomad(node: Node, environment: Mapping[str, str], limit_s: float) -> NomadLook:
    address = without_login(environment.get("NOMAD_ADDR") or DEFAULT_ADDRESS)
    with Child(lambda: node.nomad(environment, node.name)) as child:
        deadline = time.monotonic() + limit_s
        return _within(child, deadline, lambda why: NomadLook(address, why))


def _settled(facts: Facts, ask: Callable[[float], NomadLook]) -> Facts:
    """The same, with Nomad asked again while its agent is too young to know all that it offers."""
    agent = facts.running.agent
    if agent is None or agent.age_s is None:
        return facts
    deadline = time.monotonic() + SETTLED_S - agent.age_s
    while not _known(facts.nomad, facts.groups) and time.monotonic() < deadline:
        time.sleep(_AGAIN_S)
        again = ask(max(_AGAIN_S, deadline - time.monotonic()))
        if again.problem == _LATE:
            break  # by our own deadline: what it said before still holds
        facts = replace(facts, nomad=again)
    return facts


def _known(nomad: NomadLook, groups: Sequence[DeviceGroup]) -> bool:
    """Whether there is nothing to wait for: Nomad has as many vGPUs, by the same names."""
    if nomad.groups is None:
        return not nomad.early
    there = {group.device: len(group.instances) for group in nomad.groups}
    return all(there.get(device_name(group)) == len(group.instances) for group in groups)


def towards_nomad(environment: Mapping[str, str], agent: AgentConfig | None) -> Mapping[str, str]:
    """The variables that lead to the agent: an operator's, else by the agent's configuration."""
    if environment.get("NOMAD_ADDR") or agent is None:
        return environment
    return {**agent.http, **{name: value for name, value in environment.items() if value}}


def read_config(paths: Sequence[Path]) -> Configured:
    """What these files of an agent's configuration say; all problems are in it."""
    try:
        agent = read_agent_config(paths)
    except ConfigError as error:
        return Configured(problems=error.problems)
    if agent.ours is None:
        return Configured(agent)
    try:
        return Configured(agent, checked_config(agent.ours.options))
    except ConfigError as error:
        simulated = _simulated_alone(agent.ours.options)
        return Configured(agent, simulated, option_problems=error.problems)


def _simulated_alone(given: Mapping[str, object]) -> PluginConfig:
    try:
        config = checked_config(with_any_size({"simulate": given.get("simulate")}))
    except ConfigError:
        return PluginConfig()
    return PluginConfig(simulate=config.simulate)


def _daemons(
    node: Node, config: PluginConfig, agent_files: AgentConfig | None
) -> tuple[DaemonView, ...] | str:
    agent = look_at_running(node.proc, agent_files).agent
    return tuple(node.daemons(config.mps, None if agent is None else agent.path))


def _within(child: Child[_T], deadline: float, otherwise: Callable[[str], _T]) -> _T:
    try:
        return child.result(deadline)
    except OverTimeError:
        return otherwise(_LATE)
    except ChildFailedError as error:
        return otherwise(f"cannot be asked ({error})")
