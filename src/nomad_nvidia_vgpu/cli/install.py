# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu install` and `uninstall`: this program's entry in an agent's `plugin_dir`."""

from __future__ import annotations

import filecmp
import os
import shutil
import stat
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from nomad_nvidia_vgpu.cli.agent import config as agent_config
from nomad_nvidia_vgpu.cli.agent.config import AgentConfig, PluginBlock, read_agent_config
from nomad_nvidia_vgpu.cli.agent.config_file import BUILT_IN, LABEL
from nomad_nvidia_vgpu.cli.agent.given import checked_config, with_any_size
from nomad_nvidia_vgpu.cli.agent.installation import (
    Installation,
    Source,
    as_written,
    planned,
    trusted_with,
)
from nomad_nvidia_vgpu.cli.agent.plugin_dir import (
    Kind,
    PluginDir,
    is_noexec,
    look,
    not_writable,
    open_to_others,
)
from nomad_nvidia_vgpu.cli.agent.staging import clear_up, opened, remove, staged
from nomad_nvidia_vgpu.cli.agent.validation import refusal, version_of
from nomad_nvidia_vgpu.cli.config_options import (
    ConfiguredCommand,
    agent_option,
    given_config,
    option_flags,
)
from nomad_nvidia_vgpu.cli.diagnosis import nomad_bugs
from nomad_nvidia_vgpu.cli.launch import own_command
from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import ConfigError, Problem
from nomad_nvidia_vgpu.host.files import exposed, unsafe

UNPACKED = ("/var/cache/nvidia-vgpu", "/run/nvidia-vgpu/unpacked")
"""Where the single file unpacks itself (scripts/onefile)."""

_MODE = 0o755
_RESTART = "restart the agent (systemctl restart nomad): running tasks are not touched"
_F = TypeVar("_F", bound=Callable[..., Any])


def _agent_options(command: _F) -> _F:
    for option in (
        click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
        click.option(
            "--plugin-dir",
            metavar="DIR",
            help="The agent's folder for plugins, where its files name none.",
        ),
        agent_option(
            click.Path(readable=False, path_type=Path),
            "What the agent is started with as -config: a file or a folder (repeatable).",
            default=[agent_config.USUAL],
            show_default=True,
        ),
    ):
        command = option(command)
    return command


@click.command(cls=ConfiguredCommand, short_help="Put this program into an agent's plugin_dir.")
@_agent_options
@option_flags
def install(*, paths: Sequence[Path], plugin_dir: str | None, dry_run: bool, **flags: Any) -> int:
    """Put this program into a Nomad agent's plugin_dir, with a plugin block to go with it.

    The single file is copied, a program in a virtual environment is linked to. A file that is
    there is replaced in one step; existing configuration is never changed. Each option of the
    block is a flag, for a configuration without our block. Exit status 1 when something could not be
    done or is still to do by hand, as where flags ask for what an existing block does not say.
    """
    agent = read_agent_config(paths)
    found = _found(agent, plugin_dir)
    given = given_config((), flags).options
    todo = planned(agent, found, _source(agent), given)
    if todo.replaced is Kind.ORIGINAL:
        style.note(f"{todo.entry} is {todo.replaced.value}: its ids and options stay valid")
    steps = _steps(todo)
    _carry_out(todo, steps, trusted_with(agent), dry_run=dry_run)
    if todo.block is not None and (dry_run or todo.block_file is None):
        if todo.block_file is None:
            style.note(f"still to do: add this to {agent.given}:")
        click.echo(todo.block.rstrip())
    undone = (*todo.undone, *_by_nomad(agent, given, validates=not dry_run))
    for sentence in (*todo.notes, *undone):
        style.note(sentence)
    if todo.block is not None or steps or undone:
        style.note(f"then {_RESTART}" if dry_run or undone else _RESTART)
    else:
        style.note("nothing to do: the plugin block is there too")
    return int(bool(undone))


def _by_nomad(agent: AgentConfig, given: Mapping[str, Any], *, validates: bool) -> Iterator[str]:
    """What the Nomad of this node, if there is one in PATH, has against the files, or does itself."""
    program = shutil.which("nomad")
    if program is None:
        return
    said = refusal(program, [agent.given]) if validates else None
    if (
        said is not None and said.unreadable
    ):  # what else it misses may be on the agent's command line
        yield f"nomad config validate says: {said.text}"
    simulated = agent.options_of(LABEL).get("simulate") or given.get("simulate")
    number = nomad_bugs.parsed(version_of(program))
    if number and not simulated:
        remedy = nomad_bugs.without_built_in(number, agent.options_of(BUILT_IN))
        if remedy:
            yield f"this Nomad has a plugin for NVIDIA's GPUs built in, which offers them too: {remedy}"


@click.command(short_help="Take this program out of it again.")
@_agent_options
def uninstall(*, paths: Sequence[Path], plugin_dir: str | None, dry_run: bool) -> None:
    """Take this program out of a Nomad agent's plugin_dir again.

    Removes the entry, and the file with the plugin block if `install` wrote it; says what else
    is left. Drain the node first.
    """
    agent = read_agent_config(paths)
    found = _found(agent, plugin_dir)
    if found is None:
        raise ConfigError([Problem("no plugin_dir is configured", "say --plugin-dir")])
    entry = Path(found.path) / LABEL
    own = [block.file for block in agent.blocks if block.label == LABEL and _ours(block)]
    if found.holds(LABEL) in {Kind.OURS, Kind.DANGLING}:
        own.insert(0, entry)
    else:
        style.note(f"{entry} is not this plugin, and stays" if entry.exists() else f"no {entry}")
    trusted = trusted_with(agent)
    _check_writable(own, trusted)
    if not dry_run:
        for folder in filter(Path.is_dir, (entry.parent, agent.given)):
            with _told(f"clear up {folder}"), opened(folder, trusted) as descriptor:
                clear_up(descriptor)
    for path in own:
        _do(f"remove {path}", partial(remove, path, trusted), dry_run=dry_run)
    others = [b.file for b in agent.blocks if b.label == LABEL and b.file not in own]
    left = [f'the plugin "{LABEL}" block from {file}' for file in others]
    left += [f"{path}, which is this plugin too" for path in _copies(found)]
    for what in left:
        style.note(f"still to do: remove {what}")
    if own or left:
        style.note(f"then {_RESTART}" if dry_run or left else _RESTART)
    else:
        style.note("nothing to do: this plugin is not installed here")
    for sentence in _left_behind(agent):
        style.note(sentence)


def _found(agent: AgentConfig, plugin_dir: str | None) -> PluginDir | None:
    """The facts about the agent's folder for plugins; None if there is no absolute path to it."""
    path = plugin_dir or agent.plugins
    if path is None or not path.startswith("/"):
        if plugin_dir:
            raise click.UsageError(f"--plugin-dir must be an absolute path, got {plugin_dir!r}")
        return None
    try:
        return look(path, trusted_with(agent))
    except OSError as error:
        raise ConfigError([Problem(f"{path} cannot be read", f"{error.strerror}")]) from error


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
    elif who := unsafe(str(path), trusted_with(agent)):
        problem = f"{who}, and Nomad would start it: install the program where only root can write"
    return Source(path, single_file=False, problem=problem)


class _Step(NamedTuple):
    """One file that is to appear."""

    what: str
    """In words, after "could not"."""
    place: Path
    make: Callable[[Path], object]


def _steps(todo: Installation) -> list[_Step]:
    steps = []
    if todo.block is not None and todo.block_file is not None:
        text = todo.block
        steps.append(
            _Step(f"write {todo.block_file}", todo.block_file, lambda made: _write(made, text))
        )
    source, entry = todo.source, todo.entry
    if todo.there_already or _is_same(todo):
        style.note(f"{entry} is this very program")
    elif todo.link:
        steps.append(
            _Step(f"link {entry} to {source}", entry, lambda made: made.symlink_to(source))
        )
    else:
        steps.append(_Step(f"copy {source} to {entry}", entry, lambda made: _copy(source, made)))
    return steps


def _is_same(todo: Installation) -> bool:
    """Whether the entry is already what would be put there, down to its owner and mode."""
    if todo.replaced is not Kind.OURS:
        return False
    with _told(f"read {todo.entry}"):
        there = todo.entry.lstat()
        if stat.S_ISLNK(there.st_mode):
            return todo.link and todo.entry.readlink() == todo.source
        mine = there.st_uid == os.geteuid() and stat.S_IMODE(there.st_mode) == _MODE
        return mine and not todo.link and filecmp.cmp(todo.source, todo.entry, shallow=False)


def _carry_out(
    todo: Installation, steps: Sequence[_Step], trusted: Collection[int], *, dry_run: bool
) -> None:
    """Puts block and entry into their places once both are ready; both, or neither."""
    if dry_run:
        for step in steps:
            style.say(f"would {step.what}")
        return
    with ExitStack() as undo, ExitStack() as ready:
        moves = []
        for step in steps:
            with _told(step.what):
                moves.append(ready.enter_context(staged(step.place, step.make, trusted)))
        for step, move in zip(steps, moves, strict=True):
            with _told(step.what):
                move()
            if step.place == todo.block_file:  # it was not there before
                undo.callback(remove, step.place, trusted)
        undo.pop_all()
    for step in steps:
        style.say(f"done: {step.what}")


def _copy(source: Path, made: Path) -> None:
    with source.open("rb") as whole, made.open("xb") as file:
        shutil.copyfileobj(whole, file)
        os.fchmod(file.fileno(), _MODE)


def _write(made: Path, text: str) -> None:
    with made.open("x", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)


def _ours(block: PluginBlock) -> bool:
    """Whether `install` wrote the file of this block, and nobody has changed it since."""
    with _told(f"read {block.file}"):
        return as_written(block.file.read_text(encoding="utf-8"), block)


def _check_writable(files: Sequence[Path], trusted: Collection[int]) -> None:
    """ConfigError unless all of them can be removed: half would be worse than none."""
    folders = dict.fromkeys(file.parent for file in files)
    said = [not_writable(str(each)) for each in folders if not os.access(each, os.W_OK | os.X_OK)]
    said += [open_to_others(*found) for each in folders if (found := exposed(str(each), trusted))]
    if said:
        raise ConfigError(said)


def _copies(found: PluginDir) -> list[str]:
    """Our programs under other names, which Nomad up to 1.9 starts; somebody may want them back."""
    ours = [program.name for program in found.programs if program.kind is Kind.OURS]
    return [f"{found.path}/{name}" for name in ours if name != LABEL]


def _left_behind(agent: AgentConfig) -> list[str]:
    """What this command does not take away, one sentence each."""
    said = []
    usual = PluginConfig().mps.root
    root = _mps_root(agent.ours.options) if agent.ours else usual
    if Path(root).is_dir() and any(Path(root).iterdir()):
        where = "" if root == usual else f" --mps-root {root}"  # the block that says it goes
        said.append(
            f"MPS daemons and compute modes may be left ({root}): with the agent and the tasks"
            f" stopped, run {LABEL} release{where}"
        )
    unpacked = [place for place in UNPACKED if Path(place).is_dir()]
    if unpacked:
        said.append(f"once the agent is restarted, remove {' and '.join(unpacked)}")
    return said


def _mps_root(options: Mapping[str, Any]) -> str:
    """Where the daemons are, whatever else may be wrong in the block."""
    for given in (options, with_any_size({"mps": options.get("mps")})):
        with suppress(ConfigError):
            return checked_config(dict(given)).mps.root
    return PluginConfig().mps.root


def _do(what: str, action: Callable[[], object], *, dry_run: bool) -> None:
    """Does something and says so; ConfigError if it fails."""
    if dry_run:
        style.say(f"would {what}")
        return
    with _told(what):
        action()
    style.say(f"done: {what}")


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Makes an error of the system a sentence."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(
            [Problem(f"could not {what} ({why})", "fix that, and run this again")]
        ) from error
