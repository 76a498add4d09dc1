# SPDX-License-Identifier: MPL-2.0
"""The checks of MPS."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.check_mps import compute_modes, daemons, permissions, tools
from nomad_nvidia_vgpu.cli.diagnosis.driver_look import DriverLook
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level
from nomad_nvidia_vgpu.cli.diagnosis.running import Running
from nomad_nvidia_vgpu.sharing.mps import daemon as mps_daemon
from nomad_nvidia_vgpu.sharing.mps.daemon import Record
from nomad_nvidia_vgpu.sharing.mps.layout import JOURNAL
from nomad_nvidia_vgpu.sharing.mps.view import DaemonView
from unit.cli.diagnosis.nodes import agent, assert_one, driver, facts, levels, node, said, written
from unit.example_gpus import gpu

CONTROL = "nvidia-cuda-mps-control"
EXCLUSIVE = driver(gpu("GPU-a", compute_mode="EXCLUSIVE_PROCESS"))
READY = DaemonView("GPU-a", "ready")


def known(  # noqa: PLR0913  each has a default, and is named
    tmp_path: Path,
    mps_root: Path,
    *,
    sharing: str = "mps",
    vgpus: int = 4,
    look: DriverLook = EXCLUSIVE,
    views: Sequence[DaemonView] | str = (READY,),
) -> Facts:
    """A node that shares one GPU so."""
    return facts(
        tmp_path,
        options=f'vgpus = {vgpus}\nsharing = "{sharing}"\nmps {{\n root = "{mps_root}"\n}}',
        look=look,
        daemons=views,
        on=node(tmp_path, (CONTROL,)),
    )


def process(  # noqa: PLR0913  two have a default, and are named
    tmp_path: Path,
    pid: int,
    words: Sequence[str],
    pipe: Path | None,
    *,
    parent: int = 1,
    uid: int | None = None,
) -> None:
    """A process of this node, of which it may not be known who started it."""
    place = tmp_path / "proc" / str(pid)
    written(place / "cmdline", "\0".join([*words, ""]))
    written(place / "stat", f"{pid} ({Path(words[0]).name[:15]}) S {parent} 0 0")
    if uid is not None:
        written(place / "status", f"Name:\tx\nUid:\t{uid}\t0\t0\t0\n")
    if pipe is not None:
        written(place / "environ", f"HOME=/\0CUDA_MPS_PIPE_DIRECTORY={pipe}\0")


@pytest.fixture(autouse=True)
def locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a lock held by the process that its file names: those of `made` nodes do not run."""

    def holder(path: Path) -> int | None:
        return int(path.read_text()) if path.is_file() else None

    monkeypatch.setattr(mps_daemon, "lock_holder", holder)


def daemon_of(tmp_path: Path, mps_root: Path, pid: int = 7) -> None:
    """The daemon of GPU-a, with its directory."""
    written(mps_root / "GPU-a/pipe/control_lock", str(pid))
    process(tmp_path, pid, [f"/usr/bin/{CONTROL}", "-d"], mps_root / "GPU-a/pipe", uid=0)


def test_sharing_of_one_gpu_alone_counts(tmp_path: Path) -> None:
    """The whole node may share otherwise."""
    options = 'vgpus = 4\ngpu "*L4*" {\n sharing = "mps"\n}'
    known_here = facts(tmp_path, options=options, look=EXCLUSIVE)
    assert_one(tools, known_here, Level.ERROR)
    assert_one(daemons, known_here, Level.ERROR, "GPU-a has no MPS daemon")
    assert_one(compute_modes, known_here, Level.OK)


# compute modes


def test_each_sharing_has_its_mode(tmp_path: Path, mps_root: Path) -> None:
    """EXCLUSIVE_PROCESS for MPS, any number of processes else."""
    assert_one(compute_modes, known(tmp_path, mps_root), Level.OK)
    look = driver(gpu("GPU-a", compute_mode="DEFAULT"))
    assert_one(
        compute_modes, known(tmp_path, mps_root, look=look, sharing="time-slicing"), Level.OK
    )


def test_a_whole_gpu_may_be_exclusive(tmp_path: Path, mps_root: Path) -> None:
    """One vGPU is one task, which an operator may want to have but one process."""
    assert_one(compute_modes, known(tmp_path, mps_root, sharing="time-slicing", vgpus=1), Level.OK)


def test_mps_without_exclusive_mode_is_a_warning(tmp_path: Path, mps_root: Path) -> None:
    """A process can run beside the server."""
    look = driver(gpu("GPU-a", compute_mode="DEFAULT"))
    assert_one(compute_modes, known(tmp_path, mps_root, look=look), Level.WARNING, "without limits")


def test_a_mode_that_this_plugin_left_behind_is_an_error(tmp_path: Path, mps_root: Path) -> None:
    """The journal tells it from one that somebody else set."""
    written(mps_root / "compute-modes.json", json.dumps({"GPU-a": "DEFAULT"}))
    found = known(tmp_path, mps_root, sharing="time-slicing")
    remedy = f"run nvidia-vgpu release --mps-root {mps_root}, start"
    assert_one(compute_modes, found, Level.ERROR, "left in EXCLUSIVE_PROCESS", remedy)


def test_a_mode_that_somebody_set_is_an_error(tmp_path: Path, mps_root: Path) -> None:
    """All tasks but one would fail."""
    found = known(tmp_path, mps_root, sharing="time-slicing")
    assert_one(compute_modes, found, Level.ERROR, "nvidia-smi -i GPU-a -c DEFAULT")
    look = driver(gpu("GPU-a", compute_mode="PROHIBITED"))
    assert_one(compute_modes, known(tmp_path, mps_root, look=look), Level.ERROR, "PROHIBITED")


def test_a_journal_that_is_spoilt_or_of_another_gpu_is_a_warning(
    tmp_path: Path, mps_root: Path
) -> None:
    """It is left as it is: only the plugin fixes it."""
    journal = written(mps_root / "compute-modes.json", "{")
    assert_one(compute_modes, known(tmp_path, mps_root), Level.WARNING, "spoilt")
    assert journal.read_text() == "{"
    journal.write_text('{"GPU-z": "DEFAULT"}')
    assert_one(compute_modes, known(tmp_path, mps_root), Level.WARNING, "GPU-z")


# daemons


def test_a_daemon_at_work_is_ok(tmp_path: Path, mps_root: Path) -> None:
    """With its server, which is its child whatever its name."""
    daemon_of(tmp_path, mps_root)
    pipe = mps_root / "GPU-a/pipe"
    process(tmp_path, 8, [f"/usr/bin/{CONTROL}", "-d"], pipe, parent=7)
    written(tmp_path / "proc/8/stat", "8 (a) name) S 7 0 0")
    process(tmp_path, 9, ["nvidia-cuda-mps-server"], pipe, parent=7)
    process(tmp_path, 10, ["sleep", "1"], None)
    assert_one(daemons, known(tmp_path, mps_root), Level.OK, "1 MPS daemon")


def test_a_node_without_mps_is_ok(tmp_path: Path, mps_root: Path) -> None:
    """Nothing runs, nothing is left."""
    found = known(tmp_path, mps_root, sharing="time-slicing", views=())
    assert_one(daemons, found, Level.OK, "never were")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("not running", "directory and no daemon"),
        ("ACTIVE/FAULT", "stop the tasks"),
        ("GPU-a: its MPS daemon does not answer", "does not answer"),
    ],
)
def test_a_daemon_that_does_not_work_is_an_error(
    tmp_path: Path, mps_root: Path, state: str, words: str
) -> None:
    """With what it lacks."""
    views = [DaemonView("GPU-a", state)]
    assert_one(daemons, known(tmp_path, mps_root, views=views), Level.ERROR, words)


def test_a_gpu_without_a_daemon_is_an_error(tmp_path: Path, mps_root: Path) -> None:
    """The plugin has not run, or could not start one."""
    assert_one(daemons, known(tmp_path, mps_root, views=()), Level.ERROR, "GPU-a has no MPS daemon")


def test_a_tool_that_hangs_is_an_error(tmp_path: Path, mps_root: Path) -> None:
    """Nothing is known of the daemons then."""
    found = known(tmp_path, mps_root, views="does not answer in time")
    assert_one(daemons, found, Level.ERROR, "does not answer in time")


def test_a_daemon_that_is_not_wanted_any_more_is_a_warning(tmp_path: Path, mps_root: Path) -> None:
    """It ends by itself when its clients have."""
    views = [READY._replace(clients=(4, 5))]
    usual = facts(tmp_path, look=EXCLUSIVE, daemons=views)
    assert_one(daemons, usual, Level.WARNING, "run nvidia-vgpu release, start the agent")
    daemon_of(tmp_path, mps_root)
    found = known(tmp_path, mps_root, sharing="time-slicing", views=views)
    remedy = f"run nvidia-vgpu release --mps-root {mps_root}, start"
    assert_one(daemons, found, Level.WARNING, "GPU-a", "(2 clients)", remedy)


def test_a_daemon_without_its_directory_is_an_error(tmp_path: Path, mps_root: Path) -> None:
    """Somebody has removed it: no task finds the daemon, and it keeps the GPU."""
    daemon_of(tmp_path, mps_root)
    (mps_root / "GPU-a/pipe/control_lock").unlink()
    assert_one(daemons, known(tmp_path, mps_root), Level.ERROR, "pid 7", "kill 7")


def test_somebody_elses_daemon_is_in_the_way_of_ours(tmp_path: Path, mps_root: Path) -> None:
    """An error beside ours, a warning where GPUs are shared by time-slicing."""
    process(tmp_path, 30, [f"/usr/bin/{CONTROL}", "-d"], Path("/tmp/nvidia-mps"))
    assert_one(
        daemons, known(tmp_path, mps_root), Level.ERROR, "pid 30", "/tmp/nvidia-mps", "echo quit"
    )
    found = known(tmp_path, mps_root, sharing="time-slicing", views=())
    assert_one(daemons, found, Level.WARNING, "pid 30")


def left_below(root: Path) -> Path:
    """The pipe directory of a daemon that the plugin once started for GPU-a, with another mps.root."""
    root.mkdir()
    root.chmod(0o755)
    record = Record("GPU-a", multi_user_asked=True, multi_user=True, memory_limited=True)
    written(root / "GPU-a/daemon.json", json.dumps(record._asdict()))
    return root / "GPU-a/pipe"


@pytest.mark.parametrize("uid", sorted({0, os.geteuid()}))
def test_our_daemon_under_another_root_is_known_by_its_record(
    tmp_path: Path, mps_root: Path, uid: int
) -> None:
    """Left when mps.root was changed; the remedy names the root that release needs, for a shell."""
    old = mps_root.with_name("old; reboot #")
    process(tmp_path, 30, [f"/usr/bin/{CONTROL}", "-d"], left_below(old), uid=uid)
    remedy = f"run nvidia-vgpu release --mps-root '{old}', start the agent"
    assert_one(
        daemons, known(tmp_path, mps_root), Level.ERROR, "pid 30", "another mps.root", remedy
    )
    found = known(tmp_path, mps_root, sharing="time-slicing", views=())
    assert_one(daemons, found, Level.WARNING, remedy)


@pytest.mark.parametrize("uid", [12345, None])
def test_a_daemon_that_somebody_else_started_is_not_called_ours(
    tmp_path: Path, mps_root: Path, uid: int | None
) -> None:
    """Whatever root it names: else its remedy would have tasks stopped for nothing."""
    pipe = left_below(mps_root.with_name("old"))
    process(tmp_path, 30, [f"/usr/bin/{CONTROL}", "-d"], pipe, uid=uid)
    assert_one(
        daemons, known(tmp_path, mps_root), Level.ERROR, "another MPS daemon (pid 30", "echo quit"
    )
    found = known(tmp_path, mps_root, sharing="time-slicing", views=())
    assert_one(daemons, found, Level.WARNING, "pid 30", "not this plugin's")


@pytest.mark.parametrize("open_to_all", ["old", "."])
def test_a_root_that_others_could_have_made_makes_no_daemon_ours(
    tmp_path: Path, mps_root: Path, open_to_all: str
) -> None:
    """Whoever writes to it, or to the folder above, lays out records as he likes."""
    pipe = left_below(mps_root.with_name("old"))
    (mps_root.parent / open_to_all).chmod(0o777)
    process(tmp_path, 30, [f"/usr/bin/{CONTROL}", "-d"], pipe, uid=0)
    assert_one(
        daemons, known(tmp_path, mps_root), Level.ERROR, "another MPS daemon (pid 30", "echo quit"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_root_of_another_user_makes_no_daemon_ours(tmp_path: Path, mps_root: Path) -> None:
    """Also where he has what looks like an agent; but what belongs to who looks does."""
    pipe = left_below(mps_root.with_name("old"))
    os.chown(pipe.parents[1], 12345, -1)
    found = known(tmp_path, mps_root)
    for uid in (0, 12345):
        process(tmp_path, 30, [f"/usr/bin/{CONTROL}", "-d"], pipe, uid=uid)
        of_agent = dataclasses.replace(found, running=Running(agent(uid=12345)))
        assert_one(daemons, of_agent, Level.ERROR, "another MPS daemon (pid 30", "echo quit")
    of_who_looks = dataclasses.replace(found, node=dataclasses.replace(found.node, uid=12345))
    assert_one(daemons, of_who_looks, Level.ERROR, "of this plugin (pid 30", "another mps.root")


def test_a_remedy_holds_no_words_of_a_task_that_a_shell_would_run(
    tmp_path: Path, mps_root: Path
) -> None:
    """Whoever runs as such a daemon decides what stands in his environment."""
    process(tmp_path, 30, [f"/usr/bin/{CONTROL}", "-d"], Path("/tmp/x; reboot #"))
    assert_one(
        daemons, known(tmp_path, mps_root), Level.ERROR, "DIRECTORY='/tmp/x; reboot #' nvidia"
    )


@pytest.mark.parametrize("pipe", ["pipe", "/pipe"])
def test_a_pipe_directory_with_nothing_above_it_hides_no_finding(
    tmp_path: Path, mps_root: Path, pipe: str
) -> None:
    """Any user can start a process that is called so, with such a variable."""
    process(tmp_path, 30, [f"/usr/bin/{CONTROL}", "-d"], Path(pipe))
    assert_one(
        daemons, known(tmp_path, mps_root), Level.ERROR, f"another MPS daemon (pid 30, {pipe})"
    )


def test_files_without_end_do_not_fill_the_doctors_memory(tmp_path: Path, mps_root: Path) -> None:
    """Of a process, and of what stands in the place of a pid file or the journal."""
    process(tmp_path, 30, [f"/usr/bin/{CONTROL}", "-d"], Path("/tmp/nvidia-mps"))
    written(mps_root / f"GPU-a/pipe/{CONTROL}.pid", "")
    written(mps_root / JOURNAL, "")
    proc = tmp_path / "proc/30"
    places = (mps_root / f"GPU-a/pipe/{CONTROL}.pid", mps_root / JOURNAL)
    for path in (proc / "cmdline", proc / "environ", *places):
        os.truncate(path, 1 << 40)
    assert_one(daemons, known(tmp_path, mps_root), Level.ERROR, "pid 30")
    assert_one(compute_modes, known(tmp_path, mps_root), Level.WARNING, "is spoilt")


def test_a_server_that_outlived_its_daemon_is_an_error(tmp_path: Path, mps_root: Path) -> None:
    """No new daemon can be started before it has ended."""
    process(tmp_path, 9, ["nvidia-cuda-mps-server"], mps_root / "GPU-a/pipe")
    found = said(daemons, known(tmp_path, mps_root, views=[DaemonView("GPU-a", "not running")]))
    assert [level for level, _ in found] == [Level.ERROR, Level.ERROR]
    assert "pid 9" in found[1][1]


def test_what_this_user_may_not_see_is_not_judged(tmp_path: Path, mps_root: Path) -> None:
    """Another user's process does not say where its pipes are."""
    process(tmp_path, 30, [f"/usr/bin/{CONTROL}", "-d"], None)
    (tmp_path / "proc/31").mkdir()
    assert_one(daemons, known(tmp_path, mps_root), Level.OK)


# permissions


def test_open_directories_are_ok(tmp_path: Path, mps_root: Path) -> None:
    """Those that the plugin makes, and those that are yet to be made."""
    (mps_root / "GPU-a/pipe").mkdir(parents=True)
    mps_root.parent.chmod(0o755)
    assert levels(permissions, known(tmp_path, mps_root)) == [Level.OK]
    assert_one(permissions, known(tmp_path, mps_root / "no"), Level.OK)


def test_a_closed_directory_on_the_way_is_an_error(tmp_path: Path, mps_root: Path) -> None:
    """Tasks run as any user."""
    (mps_root / "GPU-a/pipe").mkdir(parents=True)
    mps_root.parent.chmod(0o755)
    (mps_root / "GPU-a").chmod(0o700)
    assert_one(permissions, known(tmp_path, mps_root), Level.ERROR, f"chmod o+x {mps_root}/GPU-a")


def test_a_root_that_others_can_write_is_an_error(tmp_path: Path, mps_root: Path) -> None:
    """They could put their own daemon there."""
    mps_root.mkdir(parents=True)
    mps_root.parent.chmod(0o755)
    mps_root.chmod(0o777)
    assert_one(permissions, known(tmp_path, mps_root), Level.ERROR, "mode 0777", "fix that")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_root_that_others_can_replace_is_an_error(tmp_path: Path, mps_root: Path) -> None:
    """As the plugin refuses it."""
    mps_root.mkdir()
    os.chown(mps_root.parent, 12345, -1)
    found = known(tmp_path, mps_root)
    assert_one(permissions, found, Level.ERROR, "belongs to uid 12345", "set another")
    mps_root.parent.chmod(0o755)
    claimed = dataclasses.replace(found, running=Running(agent(uid=12345)))
    assert_one(permissions, claimed, Level.ERROR)  # anybody can call his process the agent


def test_a_root_that_is_a_link_is_an_error(tmp_path: Path, mps_root: Path) -> None:
    """Whoever made it decides where the daemons' sockets are."""
    (tmp_path / "elsewhere").mkdir()
    mps_root.parent.chmod(0o755)
    mps_root.symlink_to(tmp_path / "elsewhere")
    found = known(tmp_path, mps_root, views=())
    assert_one(permissions, found, Level.ERROR, "is not a directory")


def test_simulated_gpus_have_no_daemons(tmp_path: Path, mps_root: Path) -> None:
    """Whatever sharing they are to have, it is not said that they share none."""
    found = known(tmp_path, mps_root, look=driver(simulated=True), views=())
    for look in (daemons, permissions):
        assert_one(look, found, Level.OK, "simulated GPUs have no MPS daemons")
