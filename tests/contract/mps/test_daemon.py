# SPDX-License-Identifier: MPL-2.0
"""The life of one GPU's MPS control daemon, over the fake tool."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mps_control.versions import VERSIONS

from contract.mps.mps_node import MpsNode
from nomad_nvidia_vgpu.errors import MpsError
from nomad_nvidia_vgpu.host.locks import lock_holder
from nomad_nvidia_vgpu.sharing.mps import control as mps_tool
from nomad_nvidia_vgpu.sharing.mps import daemon as mps_daemon
from nomad_nvidia_vgpu.sharing.mps.control import find_program
from nomad_nvidia_vgpu.sharing.mps.daemon import MpsDaemon, Record, known_uuids
from nomad_nvidia_vgpu.sharing.mps.limits import Limits

SOON_S = 3.0


def daemon_of(node: MpsNode, uuid: str = "GPU-a", proc: Path = Path("/proc")) -> MpsDaemon:
    """Gives the daemon of a GPU, not started, under a root that is there."""
    node.root.mkdir(exist_ok=True)
    return MpsDaemon(node.directory(uuid), uuid, find_program(), proc)


@pytest.fixture
def daemon(node: MpsNode) -> MpsDaemon:
    """Gives one that was never started."""
    return daemon_of(node)


def start(daemon: MpsDaemon, *, multi_user: bool = True, uuid: str = "GPU-a") -> None:
    """Starts one as a node does whose config says nothing else."""
    daemon.start(Record(uuid, multi_user, multi_user, memory_limited=True, driver="550"))


def test_a_daemon_that_was_never_started_does_not_run(daemon: MpsDaemon) -> None:
    """And nobody is asked."""
    assert not daemon.alive()
    assert daemon.record() is None


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_its_directories_can_be_entered_by_all_and_written_by_us(
    node: MpsNode, daemon: MpsDaemon, umask: int
) -> None:
    """Tasks of other users go through them; whoever could write there could play the server."""
    before = os.umask(umask)
    try:
        start(daemon)
    finally:
        os.umask(before)
    for part in (node.directory(), node.pipe(), node.directory() / "log"):
        assert stat.S_IMODE(part.stat().st_mode) == 0o755
    assert daemon.alive()


def test_how_it_was_started_is_on_record(node: MpsNode, daemon: MpsDaemon) -> None:
    """For the process that adopts it."""
    start(daemon)
    assert daemon_of(node).record() == Record(
        "GPU-a", multi_user_asked=True, multi_user=True, memory_limited=True, driver="550"
    )


def test_a_driver_without_multi_user_mode_gets_a_daemon_without(
    node: MpsNode, daemon: MpsDaemon
) -> None:
    """And the record says so."""
    node.fake.set_version("550")
    start(daemon)
    assert [s.arguments for s in node.fake.starts()] == [("-d", "-multiuser-server"), ("-d",)]
    assert daemon.record() == Record(
        "GPU-a", multi_user_asked=True, multi_user=False, memory_limited=True, driver="550"
    )
    assert daemon.alive()


def test_a_start_that_hangs_is_not_taken_for_a_missing_mode(
    node: MpsNode, daemon: MpsDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second start would take as long again, and could leave a daemon for one user only."""
    monkeypatch.setattr(mps_tool, "START_S", SOON_S)
    node.fake.hang_start()
    with pytest.raises(MpsError, match="does not answer"):
        start(daemon)
    assert len(node.fake.starts()) == 1


def test_a_daemon_that_dies_at_once_is_no_daemon(node: MpsNode, daemon: MpsDaemon) -> None:
    """The tool returned with success."""
    node.fake.die_after_start()
    with pytest.raises(MpsError, match=r"ended right after its start: see .*/control\.log"):
        start(daemon)
    assert not daemon.alive()


def test_what_a_killed_daemon_left_is_no_hindrance(node: MpsNode, daemon: MpsDaemon) -> None:
    """Its socket, its lock and its pid file are still there."""
    start(daemon)
    before = node.pid()
    node.fake.kill_daemon(node.pipe())
    assert (node.pipe() / "nvidia-cuda-mps-control.pid").exists()
    assert not daemon.alive()
    start(daemon)
    assert daemon.alive()
    assert node.pid() != before


@pytest.mark.parametrize("version", list(VERSIONS))
def test_a_daemon_is_known_by_its_lock(
    node: MpsNode, daemon: MpsDaemon, tmp_path: Path, version: str
) -> None:
    """Not every version writes a pid file, and any user may write into it."""
    node.fake.set_version(version)
    start(daemon)
    (node.pipe() / "nvidia-cuda-mps-control.pid").write_text("1")
    assert daemon.pid() == node.pid()


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_what_a_container_put_in_the_place_of_the_lock_is_none(
    node: MpsNode, daemon: MpsDaemon, tmp_path: Path, kind: str
) -> None:
    """Root in a container can write to the pipe directory that is mounted there."""
    node.pipe().mkdir(parents=True)
    path = node.pipe() / "control_lock"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(tmp_path)
    else:
        path.mkdir()
    assert not daemon.alive()


def test_a_lock_of_somebody_else_is_no_daemon(node: MpsNode, daemon: MpsDaemon) -> None:
    """Once the daemon is dead any user can lock the file, and keeps no new one from starting."""
    start(daemon)
    node.fake.kill_daemon(node.pipe())
    lock = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX)"
    script = f"{lock}; print(flush=True); sys.stdin.read()"
    path = node.pipe() / "control_lock"
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert lock_holder(path) == other.pid
        assert not daemon.alive()
        start(daemon)
    assert daemon.alive()


def test_nothing_is_removed_of_a_daemon_that_lives(node: MpsNode, daemon: MpsDaemon) -> None:
    """Its tasks would lose their way to it, and a second one would come beside it."""
    start(daemon)
    pid = node.pid()
    for act in (daemon.remove, lambda: start(daemon)):
        with pytest.raises(MpsError, match=rf"\(pid {pid}\) lives"):
            act()
    assert node.pid() == pid
    assert (node.pipe() / "control").is_socket()


def test_what_a_container_put_beside_the_pipes_leads_nowhere(
    node: MpsNode, daemon: MpsDaemon, tmp_path: Path
) -> None:
    """The old directory is removed before a start, and no link in it is followed."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/file").touch()
    node.pipe().mkdir(parents=True)
    (node.pipe() / "link").symlink_to(tmp_path / "victim")
    (node.pipe() / "control").symlink_to(tmp_path / "victim/file")
    start(daemon)
    assert (tmp_path / "victim/file").exists()
    assert not (node.pipe() / "link").is_symlink()


def process(proc: Path, pid: int, program: str, **environment: str) -> None:
    """Makes a process as `/proc` shows it."""
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "stat").write_text(f"{pid} ({Path(program).name[:15]}) S 1 0\n")
    (proc / str(pid) / "cmdline").write_bytes(program.encode() + b"\0")
    lines = [f"{name}={value}".encode() for name, value in environment.items()]
    (proc / str(pid) / "environ").write_bytes(b"\0".join(lines) + b"\0")
    (proc / str(pid) / "status").write_text(f"Name:\tx\nUid:\t{os.geteuid()}\t0\t0\t0\n")


def test_a_server_that_outlived_its_daemon_is_left_to_its_tasks(
    node: MpsNode, tmp_path: Path
) -> None:
    """In EXCLUSIVE_PROCESS a second server could not have the GPU."""
    (tmp_path / "proc" / "net").mkdir(parents=True)
    pipe = str(node.pipe())
    server = "/usr/bin/nvidia-cuda-mps-server"
    process(tmp_path / "proc", 4711, server, HOME="/", CUDA_MPS_PIPE_DIRECTORY=pipe)
    with pytest.raises(MpsError, match=r"its nvidia-cuda-mps-server goes on") as raised:
        start(daemon_of(node, proc=tmp_path / "proc"))
    assert "stop them, or drain the node" in str(raised.value)
    assert node.fake.starts() == []


def test_other_processes_are_none_of_its_servers(node: MpsNode, tmp_path: Path) -> None:
    """Another GPU's server, a task with the same variable, one that is ending."""
    proc, pipe = tmp_path / "proc", str(node.pipe())
    server = "nvidia-cuda-mps-server"
    process(proc, 1, server, CUDA_MPS_PIPE_DIRECTORY=f"{node.pipe('GPU-b')}")
    process(proc, 2, server, CUDA_MPS_PIPE_DIRECTORY=f"{pipe}2")
    process(proc, 3, "python", CUDA_MPS_PIPE_DIRECTORY=pipe)
    (proc / "4").mkdir()
    assert list(daemon_of(node, proc=proc).orphaned_servers()) == []


def test_a_task_cannot_pass_for_a_server_and_keep_the_daemon_from_starting(
    node: MpsNode, tmp_path: Path
) -> None:
    """Any task has the variable and may call itself what it likes, also with a set-uid program."""
    proc = tmp_path / "proc"
    process(proc, 1, "nvidia-cuda-mps-server", CUDA_MPS_PIPE_DIRECTORY=str(node.pipe()))
    (proc / "1/status").write_text("Name:\tsu\nUid:\t65534\t0\t0\t0\n")
    assert list(daemon_of(node, proc=proc).orphaned_servers()) == []


def test_a_daemon_is_known_by_what_can_be_read_of_a_stuck_process(
    node: MpsNode, daemon: MpsDaemon, tmp_path: Path
) -> None:
    """Its command line can hold up who reads it; here nothing can be read but its name."""
    start(daemon)
    place = tmp_path / "proc" / str(node.pid())
    place.mkdir(parents=True)
    (place / "stat").write_text(f"{node.pid()} (nvidia-cuda-mps) D 1 0\n")
    (place / "status").write_text(f"Uid:\t{os.geteuid()}\t0\t0\t0\n")
    assert daemon_of(node, proc=tmp_path / "proc").pid() == node.pid()
    for name, state in (("sshd", "S"), ("a) (nvidia-cuda-mps", "S"), ("nvidia-cuda-mps", "Z")):
        (place / "stat").write_text(f"{node.pid()} ({name}) {state} 1 0\n")
        assert daemon_of(node, proc=tmp_path / "proc").pid() is None


def test_no_more_is_read_of_processes_that_are_not_called_so(node: MpsNode, tmp_path: Path) -> None:
    """Any of them may be stuck, and so would be who looks for servers."""
    proc = tmp_path / "proc"
    process(proc, 1, "nvidia-cuda-mps-server", CUDA_MPS_PIPE_DIRECTORY=str(node.pipe()))
    (proc / "1/stat").write_text("1 (python) S 1 0\n")
    assert list(daemon_of(node, proc=proc).orphaned_servers()) == []


def test_a_server_of_one_user_may_be_any_users(node: MpsNode, tmp_path: Path) -> None:
    """Without a multi-user mode the server runs as the user whose task came first."""
    start(daemon_of(node), multi_user=False)
    proc = tmp_path / "proc"
    process(proc, 1, "nvidia-cuda-mps-server", CUDA_MPS_PIPE_DIRECTORY=str(node.pipe()))
    (proc / "1/status").write_text("Uid:\t1000\t1000\t1000\t1000\n")
    assert list(daemon_of(node, proc=proc).orphaned_servers()) == [1]


def test_a_process_without_end_costs_no_memory(node: MpsNode, tmp_path: Path) -> None:
    """A task can have the kernel show gigabytes as its command line and environment."""
    proc = tmp_path / "proc"
    process(proc, 1, "nvidia-cuda-mps-server", CUDA_MPS_PIPE_DIRECTORY=str(node.pipe()))
    for name in ("cmdline", "environ"):
        os.truncate(proc / "1" / name, 1 << 40)
    assert list(daemon_of(node, proc=proc).orphaned_servers()) == [1]


@pytest.mark.parametrize("kind", ["fifo", "endless"])
def test_a_record_that_is_no_small_file_is_none(
    node: MpsNode, daemon: MpsDaemon, kind: str
) -> None:
    """Neither waited for, nor read to the end."""
    node.directory().mkdir()
    path = node.directory() / "daemon.json"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    assert daemon.record() is None


def no_pidfd(pid: int) -> int:
    """Is `os.pidfd_open` as of Linux 4.18."""
    raise OSError(errno.ENOSYS, "Function not implemented")


@pytest.fixture(params=[os.pidfd_open, no_pidfd], ids=["pidfd", "old kernel"])
def pidfd_open(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for processes as a new kernel can, and as an old one must."""
    chosen: Callable[[int], int] = request.param
    monkeypatch.setattr(os, "pidfd_open", chosen)


@pytest.mark.usefixtures("pidfd_open")
def test_it_has_ended_when_stop_returns(node: MpsNode, daemon: MpsDaemon) -> None:
    """Else the next start would meet the old one."""
    start(daemon)
    daemon.stop()
    assert node.fake.daemons() == []
    start(daemon)
    assert node.pid()


@pytest.mark.usefixtures("pidfd_open")
def test_a_daemon_that_does_not_end_is_told(
    node: MpsNode, daemon: MpsDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By pid; it is not killed, for that could take tasks along."""
    start(daemon)
    monkeypatch.setattr(mps_daemon, "_END_S", SOON_S)
    node.fake.ignore_quit()
    with pytest.raises(MpsError, match=rf"\(pid {node.pid()}\) does not end"):
        daemon.stop()
    assert daemon.alive()


def test_limits_are_settled_for_servers_to_come_and_for_those_that_run(
    node: MpsNode, daemon: MpsDaemon
) -> None:
    """Defaults reach later servers only."""
    start(daemon)
    node.client()
    assert daemon.settle(Limits(1000, 25), daemon.read(), change=True, again=False) == []
    assert node.client().facts["memory_mib"] == 1000
    reading = daemon.read()
    assert (reading.memory, reading.percentage) == ("1000M", "25.0")
    assert [(s.memory, s.percentage) for s in reading.servers] == [("1000M", "25.0")]


def test_who_only_looks_sets_nothing(node: MpsNode, daemon: MpsDaemon) -> None:
    """Another process of ours may be the one that keeps this daemon."""
    start(daemon)
    assert len(daemon.settle(Limits(1000, 25), daemon.read(), change=False, again=False)) == 2
    assert not [line for line in node.lines() if line.startswith("set_")]


def test_a_limit_that_was_not_applied_is_told(node: MpsNode, daemon: MpsDaemon) -> None:
    """The tool exits with 0 whatever it thinks of a value."""
    start(daemon)
    node.fake.lie("set_default_device_pinned_mem_limit")
    (limit,) = daemon.settle(Limits(1000, 25), daemon.read(), change=True, again=False)
    assert limit.of_memory


@pytest.mark.parametrize("text", ["", "{", "[]", '{"uuid": "GPU-a"}', '{"unknown": 1}', "null"])
def test_a_spoilt_record_is_none(node: MpsNode, daemon: MpsDaemon, text: str) -> None:
    """The daemon is adopted all the same."""
    start(daemon)
    (node.directory() / "daemon.json").write_text(text)
    assert daemon.record() is None
    assert daemon.alive()


def test_gpus_are_known_by_the_records(node: MpsNode) -> None:
    """By UUID, also where the directory's name differs; what else is there is not ours."""
    for uuid in ("GPU-b", "GPU-a"):
        start(daemon_of(node, uuid), uuid=uuid)
    mig = "MIG-GPU-x/1/0"
    start(MpsDaemon(node.directory("MIG-GPU-x_1_0"), mig, find_program()), uuid=mig)
    (node.root / "lost+found").mkdir()
    (node.root / "lock").touch()
    assert known_uuids(node.root) == ["GPU-a", "GPU-b", "MIG-GPU-x/1/0"]
    assert known_uuids(node.root / "none") == []


def test_nothing_is_left_of_a_daemon_that_was_removed(node: MpsNode, daemon: MpsDaemon) -> None:
    """Its pipe directory too, which tells whether a GPU was ever shared so."""
    start(daemon)
    daemon.stop()
    daemon.remove()
    assert list(node.root.iterdir()) == []
    daemon.remove()
