# SPDX-License-Identifier: MPL-2.0
"""What the fake promises about the ways in which a test can break it."""

import subprocess

import pytest

from .control import FakeMps
from .node import PATIENCE_S, Gpu, wait_until

GET = "get_default_active_thread_percentage"
SET = "set_default_active_thread_percentage"


def asking(gpu: Gpu, line: str) -> "subprocess.Popen[str]":
    """Start the tool with one command and do not wait."""
    process = gpu.popen(gpu.mps.control)
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.close()
    return process


def test_a_command_can_hang(gpu: Gpu, other: Gpu, mps: FakeMps) -> None:
    """It is recorded and not answered until it is healed; others and other GPUs answer."""
    gpu.start()
    other.start()
    mps.hang(GET, pipe=gpu.pipe)
    hung = asking(gpu, GET)
    wait_until(lambda: mps.commands(gpu.pipe))
    assert gpu.ask("get_server_list") == ""
    assert other.ask(GET) == "100.0"
    assert hung.poll() is None
    mps.heal()
    assert hung.wait(PATIENCE_S) == 0
    assert hung.stdout is not None
    assert hung.stdout.read() == "100.0\n"


@pytest.mark.parametrize("line", [GET, "ps"])
def test_all_commands_can_hang(gpu: Gpu, mps: FakeMps, line: str) -> None:
    """Without a command's name every command hangs."""
    gpu.start()
    mps.hang()
    hung = asking(gpu, line)
    wait_until(mps.commands)
    assert hung.poll() is None
    mps.heal()
    assert hung.wait(PATIENCE_S) == 0


def test_a_setting_can_be_acknowledged_and_not_applied(gpu: Gpu, mps: FakeMps) -> None:
    """A lying setter says nothing and does nothing."""
    gpu.start()
    mps.lie(SET)
    assert gpu.tell(f"{SET} 25", GET) == ["100.0"]


def test_a_getter_can_lie(gpu: Gpu, mps: FakeMps) -> None:
    """A lying getter prints what the test says."""
    gpu.start()
    mps.lie(GET, "33.0")
    assert gpu.tell(f"{SET} 25", GET) == ["25.0", "33.0"]
    mps.heal()
    assert gpu.ask(GET) == "25.0"


def test_a_command_can_be_refused(gpu: Gpu, mps: FakeMps) -> None:
    """The tool prints the text, ends with the code, and the daemon hears nothing."""
    gpu.start()
    mps.refuse(SET, "not today", code=3)
    done = gpu.run(text=f"{SET} 25\n")
    assert (done.returncode, done.stdout) == (3, "not today\n")
    assert gpu.ask(GET) == "100.0"


def test_a_tool_can_be_an_older_one(gpu: Gpu, mps: FakeMps) -> None:
    """It says that it does not know what came later, and succeeds."""
    mps.set_version("535")
    gpu.start()
    assert gpu.ask("get_server_status 1") == 'Unknown command "get_server_status"'


def test_healing_one_gpu_leaves_the_other_broken(gpu: Gpu, other: Gpu, mps: FakeMps) -> None:
    """Healing by pipe directory takes back what was switched for that one alone."""
    gpu.start()
    other.start()
    for either in (gpu, other):
        mps.lie(GET, "1.0", pipe=either.pipe)
    mps.heal(pipe=gpu.pipe)
    assert (gpu.ask(GET), other.ask(GET)) == ("100.0", "1.0")


def test_a_daemon_can_fail_to_start(gpu: Gpu, mps: FakeMps) -> None:
    """The tool says why on stderr, ends with the code, and is recorded; there is no daemon."""
    mps.fail_start("no such device", code=4)
    done = gpu.run("-d")
    assert (done.returncode, done.stderr) == (4, "no such device\n")
    assert not mps.daemons()
    assert len(mps.starts()) == 1


def test_a_start_can_hang(gpu: Gpu, mps: FakeMps) -> None:
    """`-d` does not return and no daemon listens, until it is healed."""
    mps.hang_start()
    hung = gpu.popen(mps.control, "-d")
    wait_until(mps.starts)
    assert hung.poll() is None
    assert gpu.run(text="get_server_list\n").returncode == 1
    mps.heal()
    assert hung.wait(PATIENCE_S) == 0
    gpu.tell("get_server_list")


def test_a_start_can_hang_though_the_daemon_listens(gpu: Gpu, mps: FakeMps) -> None:
    """The daemon answers while the one that started it does not return, and after its death."""
    mps.hang_start(listening=True)
    hung = gpu.popen(mps.control, "-d")
    wait_until(lambda: gpu.run(text="get_server_list\n").returncode == 0)
    assert hung.poll() is None
    hung.kill()
    hung.wait()
    gpu.tell("get_server_list")


def test_a_daemon_can_die_right_after_its_start(gpu: Gpu, mps: FakeMps) -> None:
    """`-d` succeeds, and there is no daemon."""
    mps.die_after_start()
    assert gpu.run("-d").returncode == 0
    assert not mps.daemons()
    assert gpu.run(text="get_server_list\n").returncode == 1


def test_a_daemon_can_keep_its_streams(gpu: Gpu, mps: FakeMps) -> None:
    """Whoever reads what `-d` prints to the end then waits for the daemon's."""
    mps.keep_streams()
    process = gpu.popen(mps.control, "-d")
    assert process.wait(PATIENCE_S) == 0
    (daemon,) = mps.daemons()
    assert process.stdout is not None
    mps.kill_daemon(gpu.pipe)
    assert process.stdout.read() == ""
    assert daemon.pid != process.pid


def test_a_daemon_can_outlive_quit(gpu: Gpu, mps: FakeMps) -> None:
    """It answers quit and stays as it was."""
    pid = gpu.start()
    mps.ignore_quit()
    gpu.tell(f"{SET} 25", "quit")
    assert [daemon.pid for daemon in mps.daemons()] == [pid]
    assert gpu.ask(GET) == "25.0"


def test_a_server_can_fail(gpu: Gpu, mps: FakeMps) -> None:
    """Its client is refused, and the daemon lives and tries again with the next."""
    gpu.start()
    mps.fail_server()
    assert gpu.client()["error"] == 807
    assert gpu.ask("get_server_list") == ""
    mps.heal()
    assert gpu.client()["error"] == 0


def test_a_server_can_take_long(gpu: Gpu, mps: FakeMps) -> None:
    """While it is initialising its client waits."""
    gpu.start()
    mps.hold_initializing()
    held = gpu.hold()
    wait_until(lambda: gpu.ask("get_server_list"))
    assert gpu.ask(f"get_server_status {gpu.server()}") == "INITIALIZING"
    mps.heal()
    assert held.line()["error"] == 0
    assert gpu.ask(f"get_server_status {gpu.server()}") == "ACTIVE"
