# SPDX-License-Identifier: MPL-2.0
"""The Nomad agent: its version, its configuration, its folder for plugins, its API."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path

from nomad_nvidia_vgpu.cli.agent import plugin_dir
from nomad_nvidia_vgpu.cli.agent.config import ENABLE_CLIENT, AgentConfig
from nomad_nvidia_vgpu.cli.agent.config_file import BUILT_IN, LABEL, OFFICIAL, moved_inside
from nomad_nvidia_vgpu.cli.agent.config_file import where as option_place
from nomad_nvidia_vgpu.cli.agent.plugin_dir import Kind, PluginDir
from nomad_nvidia_vgpu.cli.diagnosis import nomad_bugs
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import (
    Verdict,
    error,
    error_of,
    ok,
    warning,
    warning_of,
)
from nomad_nvidia_vgpu.host.files import unsafe

_RESTART = "restart the agent"


def version(facts: Facts) -> Iterator[Verdict]:
    """Whether this version of Nomad has known bugs that concern device plugins."""
    number = version_number(facts)
    if number is None:
        yield warning(
            "the version of Nomad is not known: neither its API nor `nomad version` gives it",
            "set NOMAD_ADDR, or put nomad into PATH",
        )
        return
    shown = ".".join(map(str, number))
    bugs = [
        (bug, fix)
        for bug in nomad_bugs.KNOWN
        if (fix := bug.fix_for(number)) is not None and bug.concerns(facts.config)
    ]
    for bug, fix in bugs:
        said = error if bug.grave else warning
        yield said(f"Nomad {shown}: {bug.effect}", f"upgrade to {'.'.join(map(str, fix))} or newer")
    more = [*_built_in(facts, number), *_mounts(facts)]
    yield from more
    if not bugs and not more:
        yield ok(f"Nomad {shown} has no known bug that concerns this plugin")
    agent = facts.configured.agent
    if nomad_bugs.asks_for_figures(number) and agent and not agent.allocation_metrics:
        yield ok(
            f"Nomad {shown} shows what a task uses of its devices (nomad alloc status -stats) only"
            " with publish_allocation_metrics = true in telemetry, which the agent's files lack"
        )


def version_number(facts: Facts) -> nomad_bugs.Version | None:
    """The agent's version; of one that does not answer that of the program in PATH."""
    text = facts.nomad.version
    if text is None:
        program = facts.which("nomad")
        try:
            text = facts.output([program, "version"]).strip() if program else None
        except OSError:
            text = None
    return nomad_bugs.parsed(text or "")


def _built_in(facts: Facts, number: nomad_bugs.Version) -> Iterator[Verdict]:
    """Nomad's own plugin for NVIDIA's GPUs, unless it is told to leave them."""
    agent = facts.configured.agent
    if agent is None or facts.driver.simulated or facts.driver.problem:
        return  # it finds no GPUs either
    if remedy := nomad_bugs.without_built_in(number, agent.options_of(BUILT_IN)):
        yield error(
            f"Nomad {'.'.join(map(str, number))} has a plugin for NVIDIA's GPUs built in, which offers"
            " the same GPUs once more",
            f"{remedy}; {_RESTART}",
        )


def _mounts(facts: Facts) -> Iterator[Verdict]:
    effect = (
        "every Nomad loses a task's volume_mounts beside the mounts of a device, and the latter when"
        " the task restarts after an agent restart"
    )
    if facts.config.device_nodes == "cdi":
        yield warning(
            f'with device_nodes = "cdi" tasks are given mounts: {effect}',
            "no volume_mount in jobs with a vGPU; drain the node before the agent restarts",
        )
    elif facts.config.mps.mount and facts.config.shares_by("mps"):
        yield warning(
            f"with mps.mount tasks are given mounts: {effect}",
            f"let jobs mount {facts.config.mps.root} themselves, and take mount out",
        )


def agent_config(facts: Facts) -> Iterator[Verdict]:
    """Whether the agent's files can be read, and have a good block for this plugin."""
    configured = facts.configured
    for problem in configured.problems:
        yield error(problem.sentence, problem.remedy or "fix it: the agent does not start so")
    agent = configured.agent
    if agent is None:
        return
    yield from _no_client(facts, agent)
    ours = agent.ours
    if ours is None:
        yield from _mislabelled(agent) or [
            error(
                f'{_where(agent)} has no plugin "{LABEL}" block, so the agent does not offer GPUs',
                f"nvidia-vgpu install --vgpus N, or write the block; {_RESTART}",
            )
        ]
        return
    for text in agent.without_effect:
        yield warning_of(text)
    where = f'plugin "{LABEL}" in {ours.file}'
    if ours.outside:
        said = error_of(moved_inside(ours.outside))
        place = f'plugin "{LABEL}" in {ours.where}'
        yield error(f"{place}: {said.sentence}", f"{said.remedy}; {_RESTART}")
        return
    for problem in configured.option_problems:
        said = error_of(problem)
        place = f'plugin "{LABEL}" in {option_place(ours.file, problem)}'
        yield error(f"{place}: {said.sentence}, so the agent does not start", said.remedy)
    if configured.option_problems:
        return
    if not facts.config.enabled:
        yield warning(f"{where} says enabled = false, so nothing is offered", "set it to true")
    elif not facts.config.configured:
        yield error(
            f"{where} sets no option, so nothing is offered",
            f"set vgpus in its config block; {_RESTART}",
        )
    else:
        yield ok(f"{where} is in order")


def _no_client(facts: Facts, agent: AgentConfig) -> Iterator[Verdict]:
    """Where the files are to give the agent a plugin, and nothing makes it a client."""
    meant = agent.ours is not None or agent.plugin_dir is not None
    # An agent may be one by its command line alone, and then says so itself.
    asked = facts.nomad
    known = asked.node_id is not None if asked.client is None else asked.client
    flagged = facts.running.agent is not None and facts.running.agent.client
    if meant and not agent.client_enabled and not known and not flagged:
        yield error(
            f"this agent is no client by {_where(agent)}, so it starts no plugin",
            f"{ENABLE_CLIENT} in one of them; {_RESTART}",
        )


def _mislabelled(agent: AgentConfig) -> list[Verdict]:
    """Blocks that are meant for this plugin."""
    said = map(error_of, agent.mislabelled)
    return [error(finding.sentence, f"{finding.remedy}; {_RESTART}") for finding in said]


def plugin_files(facts: Facts) -> Iterator[Verdict]:
    """Whether this program is in the agent's plugin_dir, under the label's name, and safe there."""
    agent = facts.configured.agent
    if agent is None:
        return
    if agent.plugins is None:
        yield error(f"{_where(agent)} sets neither plugin_dir nor data_dir", "set plugin_dir")
        return
    if not agent.plugins.startswith("/"):
        yield error(f"plugin_dir is {agent.plugins!r}", "write an absolute path")
        return
    trusted = {0, facts.agent_uid, agent.given.stat().st_uid}
    try:
        folder = plugin_dir.look(agent.plugins, trusted)
    except OSError as why:
        yield warning(f"plugin_dir {agent.plugins} cannot be read: {why.strerror}", "become root")
        return
    # Whether this user may write there says nothing about the agent.
    verdicts = [
        error_of(text) for text in plugin_dir.problems(dataclasses.replace(folder, writable=True))
    ]
    verdicts += _entry(folder, trusted)
    verdicts += _official(facts, agent, folder)
    yield from verdicts or [ok(f"{folder.path}/{LABEL} is this plugin")]


def _entry(folder: PluginDir, trusted: Collection[int]) -> Iterator[Verdict]:
    path = Path(folder.path) / LABEL
    kind = folder.holds(LABEL)
    others = [
        program.name
        for program in folder.programs
        if program.kind is Kind.OURS and program.name != LABEL
    ]
    if kind is Kind.OURS:
        # What a link leads to, too.
        if not folder.exposed and (who := unsafe(str(path), trusted)):
            yield error(
                f"{who}, and Nomad starts it as {path}",
                f"chown root, chmod 755, or nvidia-vgpu install from where only root can write;"
                f" {_RESTART}",
            )
        if broken := plugin_dir.damage(path):
            yield error(f"{path} {broken}", f"copy it again, then {_RESTART}")
        elif broken := plugin_dir.start_problem(path):
            yield error(
                f"{path} {broken}, so Nomad cannot start it",
                f"install one that is for this machine and whole, then {_RESTART}",
            )
    elif kind is Kind.DANGLING:
        yield error(f"{path} is {kind.value}, and stops the agent", "nvidia-vgpu install")
    elif kind is Kind.ORIGINAL:
        yield warning(f"{path} is {kind.value}", f"nvidia-vgpu install, then {_RESTART}")
    elif kind is None and folder.exists:
        there = f": there is {', '.join(others)}" if others else ""
        yield error(
            f"{folder.path} has no executable file {LABEL}, the label of the plugin block{there}",
            f"nvidia-vgpu install, then {_RESTART}",
        )


def _official(facts: Facts, agent: AgentConfig, folder: PluginDir) -> Iterator[Verdict]:
    """HashiCorp's plugin, unless each of the two ignores what the other offers."""
    block, options = agent.block_of(OFFICIAL), agent.options_of(OFFICIAL)
    there = folder.holds(OFFICIAL) is not None
    ignored = options.get("ignored_gpu_ids")
    theirs = {str(uuid).lower() for uuid in ignored} if isinstance(ignored, list) else set()
    ours = [{shared.gpu.uuid, shared.gpu.parent_uuid} for shared in facts.plan.by_uuid().values()]
    apart = all(theirs & {(uuid or "").lower() for uuid in uuids} for uuids in ours)
    known_apart = apart and not facts.driver.problem
    if (
        facts.driver.simulated
        or known_apart
        or options.get("enabled") is False
        or not (block or there)
    ):
        return
    place = f"{folder.path} holds {OFFICIAL}" if there else ""
    label = f'{block.file} has a plugin "{OFFICIAL}" block' if block else ""
    yield warning(
        f"{' and '.join(filter(None, (place, label)))}: HashiCorp's plugin offers the same GPUs once"
        " more",
        f"take it out of both, or let each plugin ignore the other's GPUs (ignored_gpu_ids);"
        f" {_RESTART}",
    )


def api(facts: Facts) -> Iterator[Verdict]:
    """Whether the agent's API answers, and shows the node's devices."""
    look = facts.nomad
    if look.refused:
        yield error(
            f"no Nomad agent listens at {look.address}",
            "start it (systemctl start nomad), or set NOMAD_ADDR to where it listens",
        )
    elif look.problem:
        yield warning(
            f"Nomad's API at {look.address} {look.problem}, so what Nomad offers is not known",
            look.remedy
            or "set NOMAD_ADDR, NOMAD_TOKEN (node:read) and NOMAD_CACERT as for the nomad command",
        )
    else:
        yield ok(f"Nomad's API at {look.address} knows this node ({look.node_id})")


def _where(agent: AgentConfig) -> str:
    return ", ".join(map(str, agent.files)) or f"{agent.given}, which holds no file,"
