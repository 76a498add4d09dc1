# SPDX-License-Identifier: MPL-2.0
"""One command at a time to NVIDIA's tool, which here is a fake."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from mps_control.control import LimitForm

from contract.mps.mps_node import MpsNode
from nomad_nvidia_vgpu.errors import MpsError
from nomad_nvidia_vgpu.sharing.mps import control as mps_tool
from nomad_nvidia_vgpu.sharing.mps.control import (
    MpsControl,
    Server,
    Unsettled,
    find_program,
)
from nomad_nvidia_vgpu.sharing.mps.layout import PROGRAM
from nomad_nvidia_vgpu.sharing.mps.limits import Limits

UUID = "GPU-a"
QUARTER = Limits(3840, 25)
MEMORY, PERCENTAGE = "default_device_pinned_mem_limit", "default_active_thread_percentage"
SOON_S = 3.0
"""For what hangs: long for one command, short for a test."""


def control_of(node: MpsNode, uuid: str = UUID) -> MpsControl:
    """Gives the tool for a GPU whose directories are there."""
    for part in ("pipe", "log"):
        (node.directory(uuid) / part).mkdir(parents=True)
    return MpsControl(node.directory(uuid), uuid, find_program())


@pytest.fixture
def control(node: MpsNode) -> MpsControl:
    """Gives the tool, and no daemon yet."""
    return control_of(node)


@pytest.fixture
def started(control: MpsControl) -> MpsControl:
    """Gives the tool and a daemon."""
    control.start(multi_user=True)
    return control


def test_the_daemon_gets_what_it_needs_and_nothing_of_the_agents_environment(
    node: MpsNode, control: MpsControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's environment holds tokens; a daemon outlives the agent, and tasks talk to it."""
    monkeypatch.setenv("VAULT_TOKEN", "secret")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/run/driver/lib")
    monkeypatch.setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "1")
    control.start(multi_user=True)
    control.running()
    (start,) = node.fake.starts()
    (command,) = node.fake.commands()
    cuda = {
        "CUDA_MPS_PIPE_DIRECTORY": str(node.pipe()),
        "CUDA_MPS_LOG_DIRECTORY": str(node.directory() / "log"),
        "CUDA_VISIBLE_DEVICES": UUID,
    }
    assert start.arguments == ("-d", "-multiuser-server")
    for asked in (start, command):
        assert asked.names == {"PATH", "LD_LIBRARY_PATH", *cuda}
        assert asked.cuda == cuda


def test_the_daemon_holds_no_pipe_of_ours_and_leads_its_session(
    node: MpsNode, control: MpsControl
) -> None:
    """A daemon that kept the agent's pipe would freeze the agent; Ctrl-C there is not for it."""
    node.fake.keep_streams()
    control.start(multi_user=False)
    control.running()
    (start,) = node.fake.starts()
    (command,) = node.fake.commands()
    assert start.arguments == ("-d",)
    for asked in (start, command):
        assert asked.leads_session
        assert not [stream for stream in asked.streams if stream.startswith(("pipe:", "socket:"))]
    theirs, ours = (
        {file.resolve() for file in Path(f"/proc/{pid}/fd").iterdir()}
        for pid in (node.pid(), os.getpid())
    )
    assert theirs & ours <= {Path("/dev/null")}


def test_what_the_daemon_makes_is_open_to_tasks_whatever_the_agents_umask(
    node: MpsNode, control: MpsControl
) -> None:
    """Hardened units run with `UMask=0077`; a task of another user could not reach the socket."""
    before = os.umask(0o077)
    try:
        control.start(multi_user=True)
    finally:
        os.umask(before)
    assert "Umask:\t0022\n" in Path(f"/proc/{node.pid()}/status").read_text()


def test_a_daemon_runs_once_it_was_started_and_not_before(
    node: MpsNode, control: MpsControl
) -> None:
    """Whoever has died does not run either."""
    assert not control.running()
    control.start(multi_user=True)
    assert control.running()
    node.fake.kill_daemon(node.pipe())
    assert not control.running()


def test_a_daemon_that_runs_is_not_doubled(node: MpsNode, started: MpsControl) -> None:
    """The tool refuses; its words are passed on."""
    with pytest.raises(MpsError, match="already running"):
        started.start(multi_user=True)
    assert node.pid()


def test_a_start_that_fails_says_why_and_where_to_read_more(
    node: MpsNode, control: MpsControl
) -> None:
    """An operator reads the tool's own words."""
    node.fake.fail_start("Failed to create the pipes", code=3)
    with pytest.raises(MpsError) as raised:
        control.start(multi_user=False)
    sentence = str(raised.value)
    assert "nvidia-cuda-mps-control -d failed (exit status 3" in sentence
    assert "'Failed to create the pipes'" in sentence
    assert f"see {node.directory()}/log/control.log" in sentence


def test_limits_are_set_and_read_back(node: MpsNode, started: MpsControl) -> None:
    """What is in force already is only read."""
    assert started.settle(QUARTER, change=True) == []
    node.fake.forget()
    assert started.settle(QUARTER, change=True) == []
    assert node.lines() == [f"get_{PERCENTAGE}", f"get_{MEMORY} 0"]
    assert started.limits() == ("3840M", "25.0")


@pytest.mark.parametrize("form", ["exact", "mib", "mb", "spaced", "bytes"])
@pytest.mark.parametrize("memory_mib", [3840, 4096])
@pytest.mark.parametrize("padding", ["", "\n", "  \n\n"])
def test_a_limit_is_known_in_each_form(
    node: MpsNode, started: MpsControl, form: LimitForm, memory_mib: int, padding: str
) -> None:
    """Releases of the tool differ in how they spell a size."""
    node.fake.set_limit_form(form, padding=padding)
    node.fake.set_echo(echo=True)
    assert started.settle(Limits(memory_mib, 25), change=True) == []


def test_a_tool_may_show_whole_gib_only(node: MpsNode, started: MpsControl) -> None:
    """`3G` is all that it says of 3840 MiB; of 4 GiB or 512 MiB it would be wrong."""
    node.fake.set_limit_form("floor_gib")
    assert started.settle(QUARTER, change=True) == []
    assert started.settle(Limits(4096, 25), change=True) == []
    node.fake.lie(f"set_{MEMORY}")
    for wrong_mib in (3840, 5120, 512):
        wanted = Limits(wrong_mib, 25)
        assert started.settle(wanted, change=True) == [Unsettled(MEMORY, f"{wrong_mib}M", "'4G'")]


@pytest.mark.parametrize(
    ("setting", "of_memory"), [(MEMORY, True), (PERCENTAGE, False)], ids=["memory", "percentage"]
)
def test_a_limit_that_was_not_applied_is_told(
    node: MpsNode, started: MpsControl, setting: str, *, of_memory: bool
) -> None:
    """The tool exits with 0 whatever it thinks of a value."""
    node.fake.lie(f"set_{setting}")
    (one,) = started.settle(QUARTER, change=True)
    assert one.setting == setting
    assert one.of_memory is of_memory


@pytest.mark.parametrize("said", ["", "Unknown command: get", "-1", "25 G", "nan", "25.0.0", "²G"])
def test_words_that_are_no_limit_are_not_taken_for_one(
    node: MpsNode, started: MpsControl, said: str
) -> None:
    """Whatever it says, it is quoted, never a traceback."""
    for setting in (MEMORY, PERCENTAGE):
        node.fake.lie(f"get_{setting}", said)
    read = f"'{said}'" if said else "no word"
    assert [one.read for one in started.settle(QUARTER, change=True)] == [read, read]


def test_a_command_that_is_refused_is_an_error_with_the_tools_words(
    node: MpsNode, started: MpsControl
) -> None:
    """And names the daemon's log."""
    node.fake.refuse(f"set_{MEMORY}", "Operation not permitted", code=1)
    with pytest.raises(MpsError) as raised:
        started.settle(QUARTER, change=True)
    assert f"refuses 'set_{MEMORY}' (exit status 1, 'Operation not permitted')" in str(raised.value)


def test_who_only_looks_sets_nothing(node: MpsNode, started: MpsControl) -> None:
    """Another process of ours may be the one that keeps this daemon."""
    assert {one.setting for one in started.settle(QUARTER, change=False)} == {MEMORY, PERCENTAGE}
    assert not [line for line in node.lines() if line.startswith("set_")]


def test_without_limits_nothing_is_said_of_memory(node: MpsNode, started: MpsControl) -> None:
    """A limit of the memory cannot be taken off, so none is set; 100 % is none."""
    assert started.settle(Limits(None, None), change=True) == []
    assert node.lines() == [f"get_{PERCENTAGE}"]


def test_the_limits_of_a_server_that_runs_are_its_own(node: MpsNode, started: MpsControl) -> None:
    """Defaults reach later servers only."""
    server = node.client().facts["server"]
    assert started.settle(QUARTER, change=True) == []
    assert started.settle(QUARTER, server, change=True) == []
    assert f"set_active_thread_percentage {server} 25" in node.lines()
    assert f"set_device_pinned_mem_limit {server} 0 3840M" in node.lines()
    facts = node.client().facts
    assert (facts["memory_mib"], facts["percentage"]) == (3840, 25)


def test_servers_are_told_with_their_clients(node: MpsNode, started: MpsControl) -> None:
    """None before the first client."""
    assert started.servers() == []
    first, second = node.client(), node.client()
    (server,) = started.servers()
    assert server == Server(first.facts["server"], "ACTIVE", (first.pid, second.pid))
    node.fake.fault(node.pipe())
    (server,) = started.servers()
    assert server.status == "FAULT"


def test_a_tool_without_statuses_gives_none(node: MpsNode, started: MpsControl) -> None:
    """`get_server_status` is younger than the rest."""
    node.client()
    node.fake.unknown("get_server_status")
    assert [server.status for server in started.servers()] == [""]


def test_a_sentence_with_a_number_in_it_is_no_list_of_processes(
    node: MpsNode, started: MpsControl
) -> None:
    """Else a server that ended between two commands would have itself for a client."""
    node.client()
    node.fake.lie("get_client_list", "Server 4711 not found")
    (server,) = started.servers()
    assert server.clients is None
    assert server.in_use


Act = Callable[[MpsControl], object]


@pytest.mark.parametrize(
    ("command", "act"),
    [
        ("get_server_list", MpsControl.running),
        ("get_server_list", MpsControl.servers),
        ("get_server_status", MpsControl.servers),
        ("get_client_list", MpsControl.servers),
        (f"get_{MEMORY}", lambda c: c.settle(QUARTER, change=False)),
        (f"set_{PERCENTAGE}", lambda c: c.settle(QUARTER, change=True)),
        ("quit", MpsControl.quit),
    ],
)
def test_a_command_that_hangs_is_given_up(
    node: MpsNode, started: MpsControl, monkeypatch: pytest.MonkeyPatch, command: str, act: Act
) -> None:
    """Its process is ended, and the sentence names the command and the daemon's pid file."""
    node.client()
    node.fake.hang(command)
    monkeypatch.setattr(mps_tool, "ANSWER_S", SOON_S)
    with pytest.raises(MpsError) as raised:
        act(started)
    assert f"does not answer '{command}' within {SOON_S:g} s" in str(raised.value)
    assert f"{node.pipe()}/nvidia-cuda-mps-control.pid" in str(raised.value)
    tools = [p for p in psutil.Process().children() if str(node.fake.control) in p.cmdline()]
    assert tools == []


def test_a_start_that_hangs_is_given_up(
    node: MpsNode, control: MpsControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next pass finds whether a daemon has come of it all the same."""
    monkeypatch.setattr(mps_tool, "START_S", SOON_S)
    node.fake.hang_start()
    with pytest.raises(MpsError, match=f"does not answer '-d' within {SOON_S:g} s"):
        control.start(multi_user=True)
    node.fake.heal()
    assert not control.running()
    assert node.fake.daemons() == []


def test_a_daemon_can_be_there_though_its_start_hung(
    node: MpsNode, control: MpsControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not started a second time."""
    monkeypatch.setattr(mps_tool, "START_S", SOON_S)
    node.fake.hang_start(listening=True)
    with pytest.raises(MpsError):
        control.start(multi_user=True)
    assert control.running()


def test_quit_ends_it(node: MpsNode, started: MpsControl) -> None:
    """With its servers."""
    node.client()
    node.end_clients()
    started.quit()
    assert not started.running()
    assert (node.fake.daemons(), node.fake.servers()) == ([], [])


@pytest.mark.parametrize("there", [True, False], ids=["not executable", "missing"])
def test_a_node_without_the_tool_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, there: bool
) -> None:
    """Both ways out are named."""
    monkeypatch.setattr(mps_tool, "_USUAL_PATH", str(tmp_path / "usual"))
    monkeypatch.setenv("PATH", str(tmp_path))
    if there:
        (tmp_path / PROGRAM).touch(0o644)
    with pytest.raises(MpsError, match=r"install the MPS tools.*or set sharing to"):
        find_program()


def test_a_tool_that_cannot_be_run_is_no_daemon_that_does_not_answer(
    node: MpsNode, control: MpsControl
) -> None:
    """Such as one whose interpreter or loader is missing."""
    node.fake.control.write_text("#!/nowhere/at/all\n")
    with pytest.raises(MpsError, match="cannot be run"):
        control.running()


@pytest.mark.parametrize("said", ["yes 1", "head -c 1000000000 /dev/zero"])
def test_an_answer_without_end_costs_no_memory(
    node: MpsNode, control: MpsControl, said: str
) -> None:
    """Root in a container that has the pipe directory can answer in the place of the daemon."""
    node.fake.control.write_text(f"#!/bin/sh\nexec {said}\n")
    with pytest.raises(MpsError, match="refuses 'get_server_list'") as raised:
        control.servers()
    assert len(str(raised.value)) < 500
