# SPDX-License-Identifier: MPL-2.0
"""What the fake promises beyond the language that it shares with the real tools."""

from .control import FakeMps
from .node import Gpu


def test_starts_and_commands_are_recorded(gpu: Gpu, mps: FakeMps) -> None:
    """Records name the arguments, the variables, the streams and the session of each launch."""
    gpu.start("-multiuser-server")
    gpu.tell("get_server_list", "ps")
    (start,) = mps.starts()
    assert start.arguments == ("-d", "-multiuser-server")
    assert start.names == set(gpu.environment)
    assert start.cuda["CUDA_VISIBLE_DEVICES"] == gpu.uuid
    assert all(stream.startswith("pipe:") for stream in start.streams)
    assert not start.leads_session
    assert [command.line for command in mps.commands(gpu.pipe)] == ["get_server_list", "ps"]
    assert mps.commands()[0].names == set(gpu.environment)
    mps.forget()
    assert not mps.starts()
    assert not mps.commands()


def test_each_directory_has_its_daemon(gpu: Gpu, other: Gpu, mps: FakeMps) -> None:
    """Daemons are listed by their pipe directory."""
    pids = gpu.start(), other.start()
    assert tuple(mps.daemons(each.pipe)[0].pid for each in (gpu, other)) == pids


def test_a_limit_of_no_device_holds_nobody(gpu: Gpu) -> None:
    """A limit for a device that is not there is kept, and no client has it."""
    gpu.start()
    gpu.tell("set_default_device_pinned_mem_limit 7 3G")
    assert gpu.client()["memory_mib"] is None
