# SPDX-License-Identifier: MPL-2.0
"""What the fake promises about the control daemon and the language of its tool."""

import os
from pathlib import Path

import pytest

from .control import FakeMps, LimitForm
from .node import Gpu, wait_until

NO_DAEMON = "Cannot find MPS control daemon process\n"


def test_without_a_daemon_the_tool_says_so(gpu: Gpu) -> None:
    """Where no daemon listens, the tool fails with NVIDIA's words."""
    done = gpu.run(text="get_server_list\n")
    assert (done.returncode, done.stdout) == (1, NO_DAEMON)


def test_a_daemon_runs_in_the_background(gpu: Gpu) -> None:
    """`-d` leaves a daemon with files, a session and streams of its own, and no server."""
    pid = gpu.start()
    proc = Path(f"/proc/{pid}")
    assert (gpu.pipe / "nvidia-cuda-mps-control.pid").read_text().strip() == str(pid)
    assert (gpu.pipe / "control").is_socket()
    assert "Starting control daemon" in (gpu.log / "control.log").read_text()
    assert os.getsid(pid) != os.getsid(0)
    assert {str((proc / f"fd/{fd}").readlink()) for fd in range(3)} == {"/dev/null"}
    assert (proc / "comm").read_text().strip() == "nvidia-cuda-mps"
    assert gpu.ask("get_server_list") == ""


def test_a_daemon_can_run_in_the_foreground(gpu: Gpu, mps: FakeMps) -> None:
    """`-f` is the daemon itself."""
    process = gpu.popen(mps.control, "-f")
    wait_until(lambda: gpu.run(text="get_server_list\n").returncode == 0)
    assert [daemon.pid for daemon in mps.daemons(gpu.pipe)] == [process.pid]
    gpu.tell("quit")
    assert process.wait() == 0


def test_any_user_can_reach_a_daemon(gpu: Gpu) -> None:
    """The socket is open to all; who reaches it is a matter of the directories above."""
    gpu.start()
    assert (gpu.pipe / "control").stat().st_mode & 0o777 == 0o666


def test_one_daemon_for_each_pipe_directory(gpu: Gpu, other: Gpu, mps: FakeMps) -> None:
    """A second daemon is refused in the same directory and welcome in another."""
    pid = gpu.start()
    done = gpu.run("-d")
    assert done.returncode == 1
    assert done.stdout == "An instance of this daemon is already running\n"
    assert [daemon.pid for daemon in mps.daemons(gpu.pipe)] == [pid]
    assert other.start() != pid


def test_a_dead_daemons_files_are_taken_over(gpu: Gpu, mps: FakeMps) -> None:
    """What a killed daemon leaves fools the tool no more than it hinders the next daemon."""
    first = gpu.start()
    mps.kill_daemon(gpu.pipe)
    assert (gpu.pipe / "control").exists()
    assert gpu.run(text="get_server_list\n").stdout == NO_DAEMON
    second = gpu.start()
    assert second != first
    assert (gpu.pipe / "nvidia-cuda-mps-control.pid").read_text().strip() == str(second)


def test_a_path_too_long_for_a_socket(gpu: Gpu, tmp_path: Path) -> None:
    """A daemon that cannot bind its socket fails with words that do not say why."""
    gpu.environment["CUDA_MPS_PIPE_DIRECTORY"] = str(tmp_path / ("x" * 108))
    done = gpu.run("-d")
    assert (done.returncode, done.stdout) == (1, NO_DAEMON)


def test_a_directory_that_cannot_be_made(gpu: Gpu, tmp_path: Path) -> None:
    """Only the last part of a directory's path is created."""
    gpu.environment["CUDA_MPS_PIPE_DIRECTORY"] = str(tmp_path / "a" / "b")
    assert gpu.run("-d").returncode == 1


@pytest.mark.parametrize("option", ["-M", "-multiuser-server", "-S"])
def test_options_of_current_tools(gpu: Gpu, mps: FakeMps, option: str) -> None:
    """A current tool takes the option, an old one refuses it and starts nothing."""
    mps.unknown(option)
    done = gpu.run("-d", option)
    assert done.returncode == 1
    assert option in done.stderr
    assert not mps.daemons()
    mps.heal()
    gpu.start(option)


def test_defaults_are_read_back(gpu: Gpu) -> None:
    """What is set is printed again in the tool's own forms, and setting prints nothing."""
    gpu.start()
    assert gpu.ask("get_default_active_thread_percentage") == "100.0"
    assert gpu.tell(
        "set_default_active_thread_percentage 25",
        "get_default_active_thread_percentage",
        "set_default_device_pinned_mem_limit 0 4096M",
        "get_default_device_pinned_mem_limit 0",
    ) == ["25.0", "4G"]


def test_the_environment_sets_the_default_percentage(gpu: Gpu) -> None:
    """The daemon's own CUDA_MPS_ACTIVE_THREAD_PERCENTAGE is the default until another is set."""
    gpu.environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = "40"
    gpu.start()
    assert gpu.ask("get_default_active_thread_percentage") == "40.0"


@pytest.mark.parametrize(
    "line",
    [
        "set_default_active_thread_percentage 0",
        "set_default_active_thread_percentage 101",
        "set_default_active_thread_percentage many",
        "set_default_active_thread_percentage",
        "set_default_device_pinned_mem_limit 0 lots",
        "set_default_device_pinned_mem_limit 0 4096",
        "set_default_device_pinned_mem_limit 0",
        "set_default_device_pinned_mem_limit 0 0M",
        "set_active_thread_percentage 1 50",
    ],
)
def test_what_is_wrong_is_passed_over(gpu: Gpu, line: str) -> None:
    """A bad value or server is neither applied nor reported."""
    gpu.start()
    gpu.tell("set_default_active_thread_percentage 30", "set_default_device_pinned_mem_limit 0 2G")
    assert gpu.ask(line) == ""
    assert gpu.ask("get_default_active_thread_percentage") == "30.0"
    assert gpu.ask("get_default_device_pinned_mem_limit 0") == "2G"


def test_devices_are_not_checked(gpu: Gpu) -> None:
    """A limit for a device that is not there is kept, echoed, and no device's limit."""
    gpu.start()
    for device in ("7", "GPU-of-another-node"):
        gpu.tell(f"set_default_device_pinned_mem_limit {device} 3G")
        assert gpu.ask(f"get_default_device_pinned_mem_limit {device}") == "3G"
    assert gpu.ask("get_default_device_pinned_mem_limit 0") == "0"
    assert gpu.client()["memory_mib"] is None


def test_a_device_by_ordinal_or_uuid(gpu: Gpu) -> None:
    """Both name the same device, and leaving the device out means the first."""
    gpu.start()
    gpu.tell(f"set_default_device_pinned_mem_limit {gpu.uuid} 3G")
    assert gpu.ask("get_default_device_pinned_mem_limit 0") == "3G"
    assert gpu.ask("get_default_device_pinned_mem_limit") == "3G"


def test_tools_that_do_not_know_uuids(gpu: Gpu, mps: FakeMps) -> None:
    """Such a tool echoes a limit that was set by UUID and does not apply it."""
    mps.set_uuid_keys(accepted=False)
    gpu.start()
    gpu.tell(f"set_default_device_pinned_mem_limit {gpu.uuid} 3G")
    assert gpu.ask(f"get_default_device_pinned_mem_limit {gpu.uuid}") == "3G"
    assert gpu.ask("get_default_device_pinned_mem_limit 0") == "0"
    assert gpu.client()["memory_mib"] is None


@pytest.mark.parametrize(
    ("form", "whole", "part"),
    [
        ("exact", "4G", "3840M"),
        ("mib", "4096M", "3840M"),
        ("mb", "4096MB", "3840MB"),
        ("spaced", "4 GB", "3840 MB"),
        ("floor_gib", "4G", "3G"),
        ("bytes", "4294967296", "4026531840"),
    ],
)
def test_forms_of_a_limit(gpu: Gpu, mps: FakeMps, form: LimitForm, whole: str, part: str) -> None:
    """A test chooses how limits are spelt and what follows them."""
    mps.set_limit_form(form, padding="\n\n")
    gpu.start()
    for limit, text in (("4096M", whole), ("3840M", part)):
        gpu.tell(f"set_default_device_pinned_mem_limit 0 {limit}")
        done = gpu.run(text="get_default_device_pinned_mem_limit 0\n")
        assert done.stdout == f"{text}\n\n\n"


def test_tools_that_echo(gpu: Gpu, mps: FakeMps) -> None:
    """A test can have each setter print the value in force."""
    mps.set_echo(echo=True)
    gpu.start()
    assert gpu.ask("set_default_active_thread_percentage 50") == "50.0"
    assert gpu.ask("set_default_device_pinned_mem_limit 0 2G") == "2G"


def test_quit_takes_the_defaults_along(gpu: Gpu, mps: FakeMps) -> None:
    """After quit the daemon and its files are gone, and a new one knows nothing."""
    gpu.start()
    gpu.tell("set_default_active_thread_percentage 30", "quit")
    assert not mps.daemons()
    assert not (gpu.pipe / "nvidia-cuda-mps-control.pid").exists()
    assert gpu.run(text="get_server_list\n").stdout == NO_DAEMON
    gpu.start()
    assert gpu.ask("get_default_active_thread_percentage") == "100.0"


def test_a_command_nobody_knows(gpu: Gpu) -> None:
    """The tool says so and succeeds."""
    gpu.start()
    assert "nvidia" in gpu.ask("nvidia")


def test_starts_and_commands_are_recorded(gpu: Gpu, mps: FakeMps) -> None:
    """Records name the arguments, the variables, the streams and the session of each launch."""
    gpu.start("-M")
    gpu.tell("get_server_list", "", "ps")
    (start,) = mps.starts()
    assert start.arguments == ("-d", "-M")
    assert start.names == set(gpu.environment)
    assert start.cuda["CUDA_VISIBLE_DEVICES"] == gpu.uuid
    assert all(stream.startswith("pipe:") for stream in start.streams)
    assert not start.leads_session
    assert [command.line for command in mps.commands(gpu.pipe)] == ["get_server_list", "ps"]
    assert mps.commands()[0].names == set(gpu.environment)
    mps.forget()
    assert not mps.starts()
    assert not mps.commands()
