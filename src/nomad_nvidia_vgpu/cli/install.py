# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu install` and `uninstall`: this program's entry in an agent's `plugin_dir`."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from nomad_nvidia_vgpu.cli import tables
from nomad_nvidia_vgpu.cli.agent_config import AgentConfig, read_agent_config
from nomad_nvidia_vgpu.cli.config_file import LABEL
from nomad_nvidia_vgpu.cli.config_options import checked_config
from nomad_nvidia_vgpu.cli.installation import Installation, Source, as_written, planned
from nomad_nvidia_vgpu.cli.launch import own_command
from nomad_nvidia_vgpu.cli.plugin_dir import Kind, PluginDir, is_noexec, look
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import ConfigError
from nomad_nvidia_vgpu.goplugin.logs import printable
from nomad_nvidia_vgpu.node_files import unsafe

UNPACKED = ("/var/cache/nvidia-vgpu", "/run/nvidia-vgpu/unpacked")
"""Where the single file unpacks itself (scripts/onefile)."""

_RESTART = "restart the agent (systemctl restart nomad): running tasks are not touched"
_F = TypeVar("_F", bound=Callable[..., Any])


def _agent_options(command: _F) -> _F:
    for option in (
        click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
        click.option(
            "--plugin-dir", metavar="DIR", help="Instead of the one in the configuration."
        ),
        click.option(
            "--agent-config",
            "paths",
            type=click.Path(path_type=Path),
            multiple=True,
            default=[Path("/etc/nomad.d")],
            show_default=True,
            help="What the agent is started with as -config: a file or a folder (repeatable).",
        ),
    ):
        command = option(command)
    return command


@click.command()
@_agent_options
@click.option("--vgpus", type=int, help="vGPUs per GPU, for a configuration without our block.")
def install(
    *, paths: Sequence[Path], plugin_dir: str | None, vgpus: int | None, dry_run: bool
) -> None:
    """Put this program into a Nomad agent's plugin_dir, with a plugin block to go with it.

    The single file is copied, a program in a virtual environment is linked to. A file that is
    there is replaced in one step; existing configuration is never changed.
    """
    agent = read_agent_config(paths)
    found = _found(agent, plugin_dir)
    todo = planned(agent, found, _source(agent), vgpus)
    if todo.replaced is Kind.ORIGINAL:
        tables.note(f"{todo.entry} is {todo.replaced.value}: its ids and options stay valid")
    _put(todo, dry_run=dry_run)
    _write_block(todo, dry_run=dry_run)
    tables.note(f"then {_RESTART}" if dry_run else _RESTART)


@click.command()
@_agent_options
def uninstall(*, paths: Sequence[Path], plugin_dir: str | None, dry_run: bool) -> None:
    """Take this program out of a Nomad agent's plugin_dir again.

    Removes the entry, and the file with the plugin block if `install` wrote it; says what else
    is left. Drain the node first.
    """
    agent = read_agent_config(paths)
    found = _found(agent, plugin_dir)
    if found is None:
        raise ConfigError(["no plugin_dir is configured: say --plugin-dir"])
    entry = Path(found.path) / LABEL
    if found.holds(LABEL) in {Kind.OURS, Kind.DANGLING}:
        _do(f"remove {entry}", entry.unlink, dry_run=dry_run)
    else:
        tables.note(f"{entry} is not this plugin, and stays" if entry.exists() else f"no {entry}")
    _remove_block(agent, dry_run=dry_run)
    tables.note(_RESTART)
    for sentence in _left_behind(agent):
        tables.note(sentence)


def _found(agent: AgentConfig, plugin_dir: str | None) -> PluginDir | None:
    """The facts about the agent's folder for plugins; None if there is no absolute path to it."""
    path = plugin_dir or agent.plugins
    if path is None or not path.startswith("/"):
        if plugin_dir:
            raise click.UsageError(f"--plugin-dir must be an absolute path, got {plugin_dir!r}")
        return None
    try:
        return look(path, _trusted(agent))
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror}"]) from error


def _trusted(agent: AgentConfig) -> set[int]:
    """Who may decide what the agent runs: root, whoever runs this, and who owns its config."""
    return {0, os.geteuid(), agent.given.stat().st_uid}


def _source(agent: AgentConfig) -> Source:
    """The program that runs, if Nomad can start it."""
    command = own_command()
    path = Path(command[0])
    if len(command) > 1:
        said = f"this runs as {' '.join(command)}: run the program {LABEL} itself"
        return Source(path, single_file=False, problem=said)
    if zipfile.is_zipfile(path):
        return Source(path, single_file=True)
    problem = None
    if is_noexec(str(path)):
        problem = f"{path} is mounted noexec, so that Nomad cannot start it: move it elsewhere"
    elif who := unsafe(str(path), _trusted(agent)):
        problem = f"{who}, and Nomad would start it: install the program where only root can write"
    return Source(path, single_file=False, problem=problem)


def _put(todo: Installation, *, dry_run: bool) -> None:
    if todo.there_already:
        tables.note(f"{todo.entry} runs this command: it is in its place")
    elif todo.link:
        _do(f"link {todo.entry} to {todo.source}", lambda: _replace(todo), dry_run=dry_run)
    else:
        _do(f"copy {todo.source} to {todo.entry}", lambda: _replace(todo), dry_run=dry_run)


def _replace(todo: Installation) -> None:
    """Puts the entry in place in one step; a plugin that runs keeps the file that it has."""
    # In a folder of its own: Nomad up to 1.9 starts every file beside the entry, but no folder's.
    with tempfile.TemporaryDirectory(prefix=".installing-", dir=todo.entry.parent) as folder:
        made = Path(folder) / LABEL
        if todo.link:
            made.symlink_to(todo.source)
        else:
            shutil.copyfile(todo.source, made)
            made.chmod(0o755)
            with made.open("rb") as copied:
                os.fsync(copied.fileno())
        made.replace(todo.entry)


def _write_block(todo: Installation, *, dry_run: bool) -> None:
    if todo.block is None:
        return
    if todo.block_file is None:
        tables.note("add this to the agent's configuration:")
        click.echo(todo.block)
        return
    file, text = todo.block_file, todo.block
    _do(f"write {file}", lambda: _write(file, text), dry_run=dry_run)


def _write(file: Path, text: str) -> None:
    with file.open("x") as made:
        made.write(text)


def _remove_block(agent: AgentConfig, *, dry_run: bool) -> None:
    for block in agent.blocks:
        if block.label != LABEL:
            continue
        if as_written(block.file.read_text(), block):
            _do(f"remove {block.file}", block.file.unlink, dry_run=dry_run)
        else:
            tables.note(f'remove the plugin "{LABEL}" block from {block.file}')


def _left_behind(agent: AgentConfig) -> list[str]:
    """What this command does not take away, one sentence each."""
    said = []
    try:
        root = checked_config(agent.ours.options if agent.ours else {}).mps.root
    except ConfigError:
        root = PluginConfig().mps.root
    if Path(root).is_dir() and any(Path(root).iterdir()):
        said.append(
            f"MPS daemons and compute modes may be left ({root}): with the agent and the tasks"
            f" stopped, run {LABEL} release"
        )
    unpacked = [place for place in UNPACKED if Path(place).is_dir()]
    if unpacked:
        said.append(f"once the agent is restarted, remove {' and '.join(unpacked)}")
    return said


def _do(what: str, action: Callable[[], object], *, dry_run: bool) -> None:
    """Does something and says so; ConfigError if it fails."""
    if dry_run:
        click.echo(printable(f"would {what}"))
        return
    try:
        action()
    except OSError as error:
        raise ConfigError([f"could not {what}: {error.strerror or error}"]) from error
    click.echo(printable(f"done: {what}"))
