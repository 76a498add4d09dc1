# SPDX-License-Identifier: MPL-2.0
"""The commands of one pass to NVIDIA's tool, which here is a fake."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from mps_control.node import PATIENCE_S, wait_until

from contract.mps.mps_node import MpsNode
from nomad_nvidia_vgpu.errors import MpsError
from nomad_nvidia_vgpu.sharing.mps import control as mps_tool
from nomad_nvidia_vgpu.sharing.mps.control import (
    BusyError,
    MpsControl,
    daemon_path,
    find_program,
    located_server,
)
from nomad_nvidia_vgpu.sharing.mps.layout import PROGRAM, SERVER_PROGRAM
from nomad_nvidia_vgpu.sharing.mps.reading import Server

UUID = "GPU-a"
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
    control.read()
    (start,) = node.fake.starts()
    command = node.fake.commands()[0]
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
    control.read()
    (start,) = node.fake.starts()
    command = node.fake.commands()[0]
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


def test_one_look_is_two_calls_at_most(node: MpsNode, started: MpsControl) -> None:
    """What the daemon says of itself in one, of its server in another."""
    reading = started.read()
    assert reading.servers == ()
    assert (reading.memory, reading.percentage, reading.priority) == ("", "100.0", "0")
    assert len({command.pid for command in node.fake.commands()}) == 1
    first, second = node.client(), node.client()
    node.fake.forget()
    clients = (first.pid, second.pid)
    assert started.read().servers == (
        Server(first.facts["server"], "ACTIVE", clients, "", "100.0"),
    )
    assert len({command.pid for command in node.fake.commands()}) == 2
    node.fake.fault(node.pipe())
    assert [server.status for server in started.read().servers] == ["FAULT"]


def test_a_tool_without_statuses_tells_by_its_answers(node: MpsNode, started: MpsControl) -> None:
    """`get_server_status` is younger than 535."""
    node.fake.set_version("535")
    started.quit()
    started.start(multi_user=True)
    node.client()
    (server,) = started.read().servers
    assert (server.status, server.ready) == ("", True)


def test_a_server_that_is_gone_is_none(node: MpsNode, started: MpsControl) -> None:
    """It may end between two calls."""
    client = node.client()
    node.fake.lie("get_client_list", f"Server {client.facts['server']} not found")
    assert started.read().servers == ()


def test_a_sentence_with_a_number_in_it_is_no_list_of_processes(
    node: MpsNode, started: MpsControl
) -> None:
    """Whatever else the tool may say, the server may be in use."""
    node.client()
    node.fake.lie("get_client_list", "4711 clients")
    (server,) = started.read().servers
    assert server.clients is None
    assert server.in_use


def test_a_refusal_is_asked_again(
    node: MpsNode, started: MpsControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody's prompt is open nobody else is answered, and the daemon lives."""
    monkeypatch.setattr(mps_tool, "ANSWER_S", SOON_S)
    with node.prompt():
        with pytest.raises(BusyError, match="answers somebody else"):
            started.read()
        reader = threading.Thread(target=started.read)
        reader.start()
    reader.join(PATIENCE_S)
    assert started.read().percentage == "100.0"


def test_we_take_turns(node: MpsNode, started: MpsControl) -> None:
    """Many processes of ours at once get all their answers, with no refusal among them."""
    with ThreadPoolExecutor(8) as pool:
        readings = list(pool.map(lambda _: started.read(), range(8)))
    assert [reading.percentage for reading in readings] == ["100.0"] * 8
    # Each look is four commands and a fence after each.
    assert len(node.fake.commands()) == 8 * 8


def test_a_daemon_that_has_ended_is_told(node: MpsNode, started: MpsControl) -> None:
    """Only a lock that is free says so."""
    node.fake.kill_daemon(node.pipe())
    with pytest.raises(MpsError, match="its MPS daemon has ended"):
        started.read()


def test_a_path_too_long_for_sockets_is_told(node: MpsNode) -> None:
    """The tool itself ends without a word."""
    uuid = "GPU-" + "a" * 80
    with pytest.raises(MpsError, match=r"longer than the 87 bytes.*set a shorter mps\.root"):
        control_of(node, uuid).start(multi_user=True)
    assert node.fake.starts() == []


def test_a_daemon_finds_its_server(tmp_path: Path) -> None:
    """Beside its tool first, then in the agent's PATH, then where drivers put it."""
    tool = tmp_path / "bin" / PROGRAM
    tool.parent.mkdir()
    assert daemon_path(str(tool), f"relative:{tmp_path}").split(":") == [
        str(tool.parent),
        str(tmp_path),
        "/usr/bin",
        "/usr/sbin",
    ]
    server = tool.with_name(SERVER_PROGRAM)
    server.touch(0o755)
    assert located_server(str(tool), None) == str(server)


@pytest.mark.parametrize("command", ["get_server_list", "get_client_list"])
def test_a_command_that_hangs_is_given_up(
    node: MpsNode, started: MpsControl, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Its processes are ended, and the sentence names the daemon and no time."""
    node.client()
    node.fake.hang(command)
    monkeypatch.setattr(mps_tool, "ANSWER_S", SOON_S)
    with pytest.raises(MpsError) as raised:
        started.read()
    assert str(raised.value) == (
        f"{UUID}: its MPS daemon does not answer: drain the node, then end the daemon (pid"
        f" {node.pid()}); a new one is started by itself"
    )
    tools = [p for p in psutil.Process().children() if str(node.fake.control) in p.cmdline()]
    assert tools == []


def test_a_start_that_hangs_is_given_up(
    node: MpsNode, control: MpsControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next pass finds whether a daemon has come of it all the same."""
    monkeypatch.setattr(mps_tool, "START_S", SOON_S)
    node.fake.hang_start()
    with pytest.raises(MpsError, match="does not answer"):
        control.start(multi_user=True)
    node.fake.heal()
    assert node.fake.daemons() == []


def test_a_daemon_can_be_there_though_its_start_hung(
    node: MpsNode, control: MpsControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not started a second time."""
    monkeypatch.setattr(mps_tool, "START_S", SOON_S)
    node.fake.hang_start(listening=True)
    with pytest.raises(MpsError):
        control.start(multi_user=True)
    assert control.read().percentage == "100.0"


def test_quit_ends_it(node: MpsNode, started: MpsControl) -> None:
    """With its servers, also one that never gets ready; never by a `quit` that may wait for ever."""
    node.client()
    node.end_clients()
    started.quit()
    wait_until(lambda: (node.fake.daemons(), node.fake.servers()) == ([], []))
    assert node.lines()[-1] == "quit -t 1"


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
        control.read()


@pytest.mark.parametrize("said", ["yes 1", "head -c 1000000000 /dev/zero"])
def test_an_answer_without_end_costs_no_memory(
    node: MpsNode, started: MpsControl, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root in a container that has the pipe directory can answer in the place of the daemon."""
    monkeypatch.setattr(mps_tool, "ANSWER_S", SOON_S)
    node.fake.control.write_text(f"#!/bin/sh\nexec {said}\n")
    with pytest.raises(MpsError) as raised:
        started.read()
    assert len(str(raised.value)) < 500
