# SPDX-License-Identifier: MPL-2.0
"""MPS: the tools, compute modes, daemons, and the directories that tasks reach them by."""

from __future__ import annotations

import json
import shlex
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from nomad_nvidia_vgpu.cli.diagnosis.check_gpus import counted
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Verdict, error, ok, warning
from nomad_nvidia_vgpu.config.blocks import MpsConfig
from nomad_nvidia_vgpu.gpu.model import DEFAULT, EXCLUSIVE_PROCESS, Gpu
from nomad_nvidia_vgpu.host.files import read_bounded, unsafe
from nomad_nvidia_vgpu.host.proc import Proc
from nomad_nvidia_vgpu.sharing.mps.control import located
from nomad_nvidia_vgpu.sharing.mps.daemon import MpsDaemon, known_uuids
from nomad_nvidia_vgpu.sharing.mps.layout import (
    JOURNAL,
    PIPE_ENV,
    PROGRAM,
    SERVER_PROGRAM,
    gpu_directory,
    pipe_directory,
)
from nomad_nvidia_vgpu.sharing.mps.reading import FAULT
from nomad_nvidia_vgpu.sharing.mps.view import DaemonView

_DAEMON_FLAGS = ("-d", "-f")
_MAX_BYTES = 1 << 16


def tools(facts: Facts) -> Iterator[Verdict]:
    """Whether the driver's MPS tools are there, where they are needed."""
    where = facts.node.which(PROGRAM, None)
    agent = facts.running.agent
    needed = facts.config.shares_by("mps") and not facts.driver.simulated
    seen = where if facts.path is None else located(facts.path)
    if seen is not None:
        yield ok(f"{PROGRAM} is {seen}")
        if needed and facts.node.mps_server(seen, facts.path) is None:
            yield error(
                f"no {SERVER_PROGRAM} is beside {seen}, in the agent's PATH, /usr/bin or /usr/sbin,"
                " where an MPS daemon looks for it, so no task can use a GPU shared by MPS",
                f"install the {SERVER_PROGRAM} of the same driver",
            )
    elif where is not None and agent is not None and needed:
        yield error(
            f"{PROGRAM} is {where}, which is not in PATH for the Nomad agent (pid {agent.pid},"
            f" PATH={agent.path}), so no GPU can be shared by MPS",
            f"add {Path(where).parent} to PATH in the agent's unit, and restart the agent",
        )
    elif needed:
        yield error(
            f"{PROGRAM} is not in PATH{_whose(facts)}, so no GPU can be shared by MPS",
            'install the MPS tools of the NVIDIA driver, or set sharing to "time-slicing"',
        )
    else:
        yield ok(f"{PROGRAM} is not there, and not needed")


def _whose(facts: Facts) -> str:
    return "" if facts.path is None else f" of the Nomad agent that runs ({facts.path})"


def compute_modes(facts: Facts) -> Iterator[Verdict]:
    """Whether each GPU is in the compute mode that its sharing needs."""
    if facts.driver.problem:
        return
    noted, verdicts = _journal(facts)
    gpus = [seen.gpu for seen in facts.driver.inventory.gpus if seen.gpu.parent_uuid is None]
    shared = facts.plan.by_uuid()
    for gpu in gpus:
        by_mps = gpu.uuid in shared and shared[gpu.uuid].sharing == "mps"
        alone = gpu.uuid not in shared or shared[gpu.uuid].vgpus == 1
        verdicts += _compute_mode(facts, gpu, by_mps=by_mps, alone=alone, noted=gpu.uuid in noted)
    known = {seen.gpu.parent_uuid or seen.gpu.uuid for seen in facts.driver.inventory.gpus}
    for uuid in sorted(noted.keys() - known):
        verdicts.append(
            warning(
                f"{uuid} was put into {EXCLUSIVE_PROCESS} by this plugin (its mode was"
                f" {noted[uuid]}) and is not on this node any more",
                f"take it out of {Path(facts.config.mps.root) / JOURNAL} if it will not come back",
            )
        )
    yield from verdicts or [ok("each GPU is in the compute mode that its sharing needs")]


def _compute_mode(
    facts: Facts, gpu: Gpu, *, by_mps: bool, alone: bool, noted: bool
) -> Iterator[Verdict]:
    mode, back = gpu.compute_mode, f"nvidia-smi -i {gpu.uuid} -c {DEFAULT}"
    if mode == "PROHIBITED":
        yield error(f"{gpu.uuid} is in compute mode PROHIBITED: nothing can use it", back)
    elif by_mps:
        if facts.config.mps.exclusive_process and mode not in (EXCLUSIVE_PROCESS, None):
            yield warning(
                f"{gpu.uuid} is in compute mode {mode}, so a process can run beside its MPS server,"
                " without limits",
                f"restart the Nomad agent, or nvidia-smi -i {gpu.uuid} -c {EXCLUSIVE_PROCESS}",
            )
    elif mode == EXCLUSIVE_PROCESS and noted:
        yield error(
            f"{gpu.uuid} was left in {EXCLUSIVE_PROCESS} by this plugin, and is not shared by MPS"
            " any more: one process at a time can use it",
            f"wait until its MPS tasks have ended, or {_release(facts)}",
        )
    elif mode == EXCLUSIVE_PROCESS and not alone:
        yield error(
            f"{gpu.uuid} is in {EXCLUSIVE_PROCESS}, so of all its tasks one can use it at a time",
            back,
        )


def daemons(facts: Facts) -> Iterator[Verdict]:
    """Whether the daemons of the GPUs shared by MPS work, and no others are left or in the way."""
    if isinstance(facts.daemons, str):
        yield error(f"the MPS daemons' control tool {facts.daemons}", "look at its processes")
        return
    root = Path(facts.config.mps.root)
    wanted = _shared_by_mps(facts)
    seen = {view.uuid for view in facts.daemon_views}
    verdicts = [said for view in facts.daemons for said in _daemon(facts, view)]
    verdicts += [
        error(
            f"{uuid} has no MPS daemon",
            "restart the Nomad agent; its log and the health of the vGPUs say why, if it stays so",
        )
        for uuid in sorted(wanted - seen)
    ]
    verdicts += _processes(facts, root)
    if verdicts:
        yield from verdicts
    elif facts.daemons:
        yield ok(f"{counted(len(facts.daemons), 'MPS daemon')} at work")
    else:
        yield _unused(facts)


def _unused(facts: Facts) -> Verdict:
    if facts.driver.simulated:
        return ok("simulated GPUs have no MPS daemons")
    return ok("GPUs are not shared by MPS, and never were")


def permissions(facts: Facts) -> Iterator[Verdict]:
    """Whether tasks of all users can reach the daemons, and only their owner can replace them."""
    root = Path(facts.config.mps.root)
    if not root.exists():
        made = ok(f"{root} is made with the first daemon")
        yield made if _shared_by_mps(facts) else _unused(facts)
        return
    verdicts = []
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, facts.agent_uid):
        verdicts.append(
            error(
                f"mps.root {root} is not a directory of the user that the Nomad agent runs as",
                "remove it, or set another",
            )
        )
    elif (why := unsafe(str(root), {0, facts.agent_uid})) is not None:
        verdicts.append(
            error(
                f"mps.root {root} can be changed by other users ({why})",
                "fix that, or set another",
            )
        )
    verdicts += _closed(_ways(facts, root))
    yield from verdicts or [ok(f"tasks of all users reach the MPS daemons under {root}")]


def _ways(facts: Facts, root: Path) -> set[Path]:
    """The directories that a task passes on its way to a daemon."""
    ends = {Path(pipe_directory(facts.config.mps, view.uuid)) for view in facts.daemon_views} or {
        root
    }
    return {path for end in ends for path in (end, *end.parents)}


def _closed(paths: Iterable[Path]) -> Iterator[Verdict]:
    for path in sorted(paths):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            continue  # a daemon without pipes has a finding of its own
        if not mode & stat.S_IXOTH:
            yield error(
                f"{path} is closed to other users (mode {stat.S_IMODE(mode):o}), so their tasks"
                " cannot reach the MPS daemons",
                f"chmod o+x {path}",
            )


def _journal(facts: Facts) -> tuple[dict[str, str], list[Verdict]]:
    """The modes before ours by GPU, and what is wrong with the file, which the plugin would fix."""
    path = Path(facts.config.mps.root) / JOURNAL
    try:
        found = json.loads(read_bounded(path, _MAX_BYTES))
        return {str(uuid): str(mode) for uuid, mode in found.items()}, []
    except FileNotFoundError:
        return {}, []
    except PermissionError:
        return {}, [warning(f"{path} cannot be read by this user", "run this command as root")]
    except (OSError, ValueError, AttributeError):
        remedy = f"put GPUs back by nvidia-smi -i <UUID> -c {DEFAULT}, and remove the file"
        return {}, [warning(f"{path} is spoilt: changed compute modes are not restored", remedy)]


def _release(facts: Facts) -> str:
    root = facts.config.mps.root
    flag = "" if root == MpsConfig().root else f" --mps-root {shlex.quote(root)}"
    return f"stop the Nomad agent, run nvidia-vgpu release{flag}, start the agent"


def _shared_by_mps(facts: Facts) -> set[str]:
    return {
        uuid
        for uuid, shared in facts.plan.by_uuid().items()
        if shared.sharing == "mps" and shared.health.healthy and not shared.gpu.simulated
    }


def _to_be_shared(facts: Facts, uuid: str) -> bool:
    """Whether a GPU is to be shared by MPS, well or not, as far as is known without a driver."""
    if facts.driver.problem:
        return facts.config.shares_by("mps")
    shared = facts.plan.by_uuid().get(uuid)
    return shared is not None and shared.sharing == "mps"


def _daemon(facts: Facts, view: DaemonView) -> Iterator[Verdict]:
    log = Path(gpu_directory(facts.config.mps, view.uuid)) / "log/control.log"
    if not _to_be_shared(facts, view.uuid):
        clients = f" ({counted(len(view.clients), 'client')})" if view.clients else ""
        yield warning(
            f"{view.uuid} has an MPS daemon's directory though it is not to be shared by MPS"
            f" now{clients}",
            f"the plugin ends it when no task uses it; without the plugin: {_release(facts)}",
        )
    elif view.state == "not running":
        yield error(
            f"{view.uuid} has an MPS daemon's directory and no daemon",
            f"the plugin starts one by itself: see that the Nomad agent runs, and {log}",
        )
    elif FAULT in view.state.split("/"):
        yield error(
            f"{view.uuid}: a task's fault has put its MPS server into FAULT",
            "stop the tasks on this GPU; the server is started again once they have ended",
        )
    elif not view.working:
        yield error(f"{view.uuid}: {view.state}", f"see {log}")


class _Process(NamedTuple):
    """An MPS daemon or server that runs."""

    pid: int
    parent: int | None
    server: bool
    pipe: Path | None
    """Where its clients meet it; None if this user may not know."""
    uid: int | None
    """The uid that started it; None if that is not known."""


def _processes(facts: Facts, root: Path) -> Iterator[Verdict]:
    """What runs without a directory, and daemons of somebody else."""
    running = list(_running(Proc(str(facts.node.proc))))
    kept = {
        MpsDaemon(
            Path(gpu_directory(facts.config.mps, view.uuid)), view.uuid, proc=facts.node.proc
        ).pid()
        for view in facts.daemon_views
    }
    pids = {process.pid for process in running}
    for process in running:
        # A daemon's child is its server, whatever it calls itself.
        if process.server or process.pipe is None or process.pid in kept or process.parent in pids:
            continue
        if root in process.pipe.parents:
            yield error(
                f"an MPS daemon (pid {process.pid}) runs for {process.pipe}, which does not know it: tasks"
                " cannot reach it, and it keeps the GPU",
                f"stop the tasks on that GPU, then kill {process.pid}",
            )
        elif (other := _root_of(process.pipe, process.uid, {0, facts.node.uid})) is not None:
            said = error if facts.config.shares_by("mps") else warning
            yield said(
                f"an MPS daemon of this plugin (pid {process.pid}, {process.pipe}) runs under another"
                " mps.root than the config's, and keeps its GPU",
                "stop the Nomad agent and the tasks on that GPU, run nvidia-vgpu release"
                f" --mps-root {shlex.quote(str(other))}, start the agent",
            )
        elif facts.config.shares_by("mps"):
            yield error(
                f"another MPS daemon (pid {process.pid}, {process.pipe}) runs beside this plugin's, and can"
                " take a GPU in EXCLUSIVE_PROCESS for itself",
                f"end it: echo quit | {PIPE_ENV}={shlex.quote(str(process.pipe))} {PROGRAM}",
            )
        else:
            yield warning(
                f"an MPS daemon (pid {process.pid}, {process.pipe}) runs that is not this plugin's",
                "end it unless you know what it is for: tasks can be made to use it",
            )
    led = {process.pipe for process in running if not process.server}
    for process in running:
        if process.server and process.pipe is not None and process.pipe not in led:
            yield error(
                f"an MPS server (pid {process.pid}, {process.pipe}) has outlived its daemon, and goes on"
                " for the tasks that use it",
                "stop the tasks on that GPU, or drain the node",
            )


def _root_of(pipe: Path, uid: int | None, trusted: Collection[int]) -> Path | None:
    """The mps.root of a daemon with this pipe directory, by the records there; None: not ours.

    Anybody can call a process so and lay such records out: what counts is of the uids in `trusted`.
    """
    if pipe.name != "pipe" or len(pipe.parents) < 2:  # noqa: PLR2004  whose else could say anything
        return None
    root = pipe.parents[1]
    try:
        ours = uid in trusted and unsafe(str(root), trusted) is None
    except OSError:
        return None  # it is gone, or closed to us
    return root if ours and known_uuids(root) else None


def _running(proc: Proc) -> Iterator[_Process]:
    for pid in proc.pids():
        words = proc.words(pid)
        # Before the program there may be an interpreter and an option of it.
        names = [word.rpartition("/")[2] for word in words[:3]]
        server = SERVER_PROGRAM in names
        if server or (PROGRAM in names and set(_DAEMON_FLAGS) & set(words)):
            yield _Process(pid, proc.parent(pid), server, _pipe(proc, pid), proc.user(pid))


def _pipe(proc: Proc, pid: int) -> Path | None:
    given = proc.environment_at_last(pid, [PIPE_ENV])
    # MPS's own default.
    return None if given is None else Path(given.get(PIPE_ENV) or "/tmp/nvidia-mps")  # noqa: S108
