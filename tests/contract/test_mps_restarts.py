# SPDX-License-Identifier: MPL-2.0
"""Plugins that end, are killed, overlap, and come back with another config, while tasks run on."""

from __future__ import annotations

import psutil
import pytest

from nomad_nvidia_vgpu.rpc.client import Refused

from .conftest import PATIENCE_S, Start, Started
from .fingerprints import healthy, reasons, until
from .mps_machine import DEFAULT, EXCLUSIVE, MpsMachine, attribute, eventually

TRIES = 3
"""For what has to be in time, on a machine that may be busy with something else."""


def kill(host: Started) -> None:
    """Ends a plugin as a crash would."""
    host.plugin.process.kill()
    host.plugin.process.wait()


def test_a_killed_plugin_leaves_everything_as_it_is(machine: MpsMachine, start: Start) -> None:
    """The next one adopts daemon, server and limits; Nomad restores tasks without a word to it."""
    host = start(machine.node, **machine.config(max_vgpus_per_task=1))
    until(host.fingerprints(), 2)
    envs = host.reserve(machine.ids(0)).envs
    task = machine.task(envs)
    daemons = (machine.daemon(0), machine.daemon(1))
    kill(host)
    machine.fake.forget()

    host = start(machine.node, **machine.config(max_vgpus_per_task=1))
    until(host.fingerprints(), 2)
    assert (machine.daemon(0), machine.daemon(1)) == daemons
    assert machine.fake.starts() == []
    lines = {command.line for command in machine.fake.commands()}
    assert not [line for line in lines if line.startswith(("start_server", "quit"))]
    assert machine.modes() == [EXCLUSIVE, EXCLUSIVE]
    again = machine.task(envs)
    assert again.facts == {**task.facts, "pid": again.pid}
    assert [client.pid for client in machine.fake.clients()] == [task.pid, again.pid]
    assert host.reserve(machine.ids(0)).envs == envs


@pytest.mark.parametrize("moment", ["nvmlDeviceSetComputeMode", "nvmlDeviceGetComputeMode"])
def test_a_plugin_killed_on_its_way_leaves_modes_that_can_be_restored(
    machine: MpsMachine, start: Start, moment: str
) -> None:
    """Whatever it was doing; here the driver holds it up until it is killed."""
    machine.node.set("gpu 1", f"hang.{moment}", 1)
    host = start(machine.node, **machine.config())
    stream = host.fingerprints()
    eventually(lambda: machine.modes() == [EXCLUSIVE, DEFAULT] and machine.node.calls()[moment])
    kill(host)
    stream.cancel()
    machine.node.clear("gpu 1", f"hang.{moment}")
    stream = start(machine.node, vgpus=4, **machine.root_only()).fingerprints()
    until(stream, 2)
    assert machine.modes() == [DEFAULT, DEFAULT]
    assert machine.fake.daemons() == []


def test_shutdown_leaves_the_daemons_to_their_tasks(machine: MpsMachine, start: Start) -> None:
    """An agent that restarts stops its plugin; the compute modes stay too."""
    host = start(machine.node, **machine.config())
    until(host.fingerprints(), 2)
    task = machine.task(host.reserve(machine.ids(0)).envs)
    daemon = machine.daemon()
    assert host.end() == 0
    assert machine.daemon() == daemon
    assert [client.pid for client in machine.fake.clients()] == [task.pid]
    assert machine.modes() == [EXCLUSIVE, EXCLUSIVE]


@pytest.mark.parametrize("command", ["get_server_list", "set_default_active_thread_percentage"])
def test_shutdown_is_in_time_while_the_tool_hangs(
    machine: MpsMachine, start: Start, command: str
) -> None:
    """Else Nomad would kill it, and say so."""

    def hangs() -> bool:
        return any(asked.line.startswith(command) for asked in machine.fake.commands())

    machine.fake.hang(command)
    for _ in range(TRIES):
        machine.fake.forget()
        host = start(machine.node, **machine.config(max_vgpus_per_task=1))
        stream = host.fingerprints()
        eventually(hangs)
        stopped = host.stop()
        stream.cancel()
        if not stopped.killed:
            break
    assert not stopped.killed


@pytest.mark.parametrize("hangs", [False, True], ids=["daemons", "a hanging command too"])
def test_nothing_that_lives_on_holds_the_agents_pipes(
    machine: MpsMachine, start: Start, *, hangs: bool
) -> None:
    """Nomad waits for the end of both; a grandchild that kept one would freeze the agent."""
    machine.fake.keep_streams()
    host = start(machine.node, **machine.config())
    until(host.fingerprints(), 2)
    if hangs:
        asked = len(machine.fake.commands())
        machine.fake.hang()
        eventually(lambda: len(machine.fake.commands()) > asked)
    process = host.plugin.process
    readers = host.plugin._threads
    assert len(readers) == 2
    process.kill()
    for reader in readers:
        reader.join(30.0)
        assert not reader.is_alive()
    assert machine.daemon()


def test_a_tool_that_hangs_ends_though_its_plugin_was_killed(
    machine: MpsMachine, start: Start
) -> None:
    """Nobody is left who could end it, and each restart of the agent would leave more of them."""
    host = start(machine.node, **machine.config())
    until(host.fingerprints(), 2)
    plugin = psutil.Process(host.plugin.process.pid)
    hung: list[psutil.Process] = []

    def caught() -> bool:
        """Whether the plugin, which stands still then, waits for a tool."""
        plugin.suspend()
        hung[:] = [child for child in plugin.children(recursive=True) if runs(child)]
        if not hung:
            plugin.resume()
        return bool(hung)

    def runs(tool: psutil.Process) -> bool:
        try:
            return str(machine.fake.control) in tool.cmdline()  # that of a zombie is empty
        except psutil.NoSuchProcess:
            return False

    machine.fake.hang()
    eventually(caught)
    kill(host)
    assert any(map(runs, hung)), "it outlives the plugin at first"
    eventually(lambda: not any(map(runs, hung)))
    assert machine.daemon()


def test_a_plugin_beside_another_looks_and_takes_over(machine: MpsMachine, start: Start) -> None:
    """The agent was killed: its plugin lives on for up to a minute, and has the lock."""
    old = start(machine.node, **machine.config())
    until(old.fingerprints(), 2)
    machine.fake.forget()
    new = start(machine.node, **machine.config())
    stream = new.fingerprints()
    groups = until(stream, 2)
    assert set(attribute(groups, "memory_isolation").values()) == {"mps"}
    assert new.reserve(machine.ids(0))
    assert machine.fake.starts() == []
    kill(old)
    machine.fake.kill_daemon(machine.pipe())
    eventually(lambda: machine.fake.daemons(machine.pipe()))
    assert len(machine.fake.starts()) == 1
    until(new.fingerprints(), 2)
    assert new.reserve(machine.ids(0))


def test_back_to_time_slicing_waits_for_the_tasks(machine: MpsMachine, start: Start) -> None:
    """Then the daemon ends, its directory goes, and the compute mode is what it was."""
    machine.node.set("gpu 1", "compute_mode", EXCLUSIVE)
    host = start(machine.node, **machine.config())
    until(host.fingerprints(), 2)
    machine.task(host.reserve(machine.ids(0)).envs)
    host.stop()

    host = start(machine.node, vgpus=4, **machine.root_only())
    stream = host.fingerprints()
    first = stream.next_within(PATIENCE_S)
    assert not healthy(first).get(machine.uuid(0))  # not a moment for a task to fall into
    groups = until(host.fingerprints(), 1)  # of a stream of its own: the other has had it, maybe
    assert healthy(groups) == {machine.uuid(0): False, machine.uuid(1): True}
    (reason,) = reasons(groups)
    assert "still shared by MPS, for tasks that were started before the config changed" in reason
    with pytest.raises(Refused, match="stop them, or drain the node"):
        host.reserve(machine.ids(0))
    assert machine.daemon()
    assert machine.modes() == [EXCLUSIVE, EXCLUSIVE]
    machine.end_tasks()
    groups = until(stream, 2)
    assert [group.name for group in groups] == ["NVIDIA H100 80GB HBM3"]
    assert machine.fake.daemons() == []
    assert not (machine.root / machine.uuid()).exists()
    assert machine.modes() == [DEFAULT, EXCLUSIVE], "the second was the operator's"
    assert "CUDA_MPS_PIPE_DIRECTORY" not in host.reserve(machine.ids(0)).envs
    stream.cancel()
    (warned,) = host.logged_in_all("warn", "is in compute mode")
    assert machine.uuid(1) in warned


def test_a_gpu_that_is_ignored_from_now_on_is_released(machine: MpsMachine, start: Start) -> None:
    """It is somebody else's now."""
    host = start(machine.node, **machine.config())
    until(host.fingerprints(), 2)
    host.stop()
    host = start(machine.node, **machine.config(), ignored_gpu_ids=[machine.uuid(0)])
    until(host.fingerprints(), 1)
    eventually(lambda: machine.modes() == [DEFAULT, EXCLUSIVE])
    assert [daemon.pipe for daemon in machine.fake.daemons()] == [str(machine.pipe(1))]


def test_a_node_that_never_shared_by_mps_is_not_touched(machine: MpsMachine, start: Start) -> None:
    """No directory, no command."""
    until(start(machine.node, vgpus=4, **machine.root_only()).fingerprints(), 2)
    assert not machine.root.exists()
    assert (machine.fake.starts(), machine.fake.commands()) == ([], [])
    assert machine.node.calls()["nvmlDeviceSetComputeMode"] == 0


def test_the_launches_that_only_ask_start_nothing(machine: MpsMachine, start: Start) -> None:
    """Nomad starts the plugin three times; two never ask for a fingerprint."""
    host = start(machine.node, **machine.config())
    host.info()
    host.stop()
    assert not machine.root.exists()
    assert machine.fake.starts() == []
