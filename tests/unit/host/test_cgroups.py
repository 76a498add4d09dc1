# SPDX-License-Identifier: MPL-2.0
"""From the cgroup of a process to its task."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomad_nvidia_vgpu.host.cgroups import Members, Name, TaskCgroup, task_cgroup
from nomad_nvidia_vgpu.host.proc import Identity
from unit.host.made_proc import (
    ALLOCATION,
    CONTAINER,
    OTHER_ALLOCATION,
    MadeProc,
    docker_v2,
    nomad_v1,
    nomad_v2,
    old_nomad_v1,
)

TASK = Name(ALLOCATION, "train")
OLD = Name(container=OTHER_ALLOCATION)
BOX = Name(container=CONTAINER)
ALLOCATED = {"NOMAD_ALLOC_ID": ALLOCATION}

EXEC_V1 = "".join(
    f"{number}:{controller}:/nomad/{ALLOCATION}.train\n"
    for number, controller in enumerate(("cpu,cpuacct", "devices", "freezer", "memory", "pids"))
)


@pytest.mark.parametrize(
    ("lines", "name", "controller"),
    [
        (nomad_v2(), TASK, ""),
        (f"0::/nomad.slice/reserve.slice/{ALLOCATION}.train.scope\n", TASK, ""),
        (f"0::/my.slice/nomad.slice/share.slice/{ALLOCATION}.train.scope\n", TASK, ""),
        (nomad_v1(), TASK, "freezer"),
        (EXEC_V1, TASK, "freezer"),
        (nomad_v2(task="a.b c.scope"), Name(ALLOCATION, "a.b c.scope"), ""),
        (nomad_v1(task="a.scope"), Name(ALLOCATION, "a.scope"), "freezer"),
        (nomad_v2(task="with:colons"), Name(ALLOCATION, "with:colons"), ""),
        (docker_v2(), BOX, ""),
        (f"0::/docker/{CONTAINER}\n", BOX, ""),
        (f"5:devices:/docker/{CONTAINER}\n4:memory:/docker/{CONTAINER}\n", BOX, "memory"),
        (f"0::/machine.slice/libpod-{CONTAINER}.scope/container\n", BOX, ""),
        (old_nomad_v1(), OLD, "freezer"),
        (f"6:freezer:/nomad/{OTHER_ALLOCATION}/{ALLOCATION}.x\n", OLD, "freezer"),
        (f"6:freezer:/libpod_parent/libpod-{CONTAINER}\n", BOX, "freezer"),
    ],
)
def test_the_forms_of_cgroups(lines: str, name: Name, controller: str) -> None:
    """Nomad's own drivers, docker and podman, under cgroup v1 and v2."""
    cgroup = task_cgroup(lines)
    assert cgroup is not None
    assert (cgroup.name, cgroup.controller) == (name, controller)


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "nonsense\n",
        "0::/\n",
        "0::/system.slice/nomad.service\n",
        "6:freezer:/nomad\n",
        f"0::/nomad.slice/share.slice/{ALLOCATION}.scope\n",
        f"0::/nomad.slice/share.slice/{ALLOCATION}.train\n",
        f"0::/nomad.slice/share.slice/{ALLOCATION}.train.scope (deleted)\n",
        f"0::/nomad.slice/share.slice/x{ALLOCATION}.train.scope\n",
        f"0::/machine.slice/libpod-conmon-{CONTAINER}.scope\n",
        f"0::/docker/{CONTAINER[:-1]}\n",
        f"0::/nomad/{ALLOCATION}\n",
        f"6:freezer:/nomad/{ALLOCATION} (deleted)\n",
        f"6:freezer:/a/b/{ALLOCATION}\n",
        f"6:freezer:/user.slice/{ALLOCATION}\n",
    ],
)
def test_other_cgroups_are_no_tasks(lines: str) -> None:
    """What Nomad and the engines do not name so is nobody's, as is a cgroup that was removed."""
    assert task_cgroup(lines) is None


def test_what_lies_within_belongs_to_the_task() -> None:
    """A task that makes cgroups of its own stays the task that it is."""
    inside = nomad_v2().strip() + f"/docker/{CONTAINER}/{OTHER_ALLOCATION}.forged.scope\n"
    assert task_cgroup(inside) == task_cgroup(nomad_v2())
    boxed = docker_v2().strip() + f"/nomad.slice/share.slice/{OTHER_ALLOCATION}.forged.scope\n"
    assert task_cgroup(boxed) == task_cgroup(docker_v2())


def test_where_users_may_make_cgroups_no_name_counts() -> None:
    """A user's own slice can hold cgroups of any name."""
    forged = f"0::/user.slice/user-1000.slice/user@1000.service/{ALLOCATION}.train.scope\n"
    assert task_cgroup(forged) is None


def test_a_process_of_two_tasks_is_nobodys() -> None:
    """Hierarchies that name different tasks, which only root can bring about, prove nothing."""
    other = nomad_v1(OTHER_ALLOCATION).splitlines()[2]
    assert task_cgroup(nomad_v1().replace("4:memory", "4:cpu") + other + "\n") is None


def test_a_cgroup_that_holds_us_is_no_tasks() -> None:
    """When the agent runs in a container, the tasks are what lies below it."""
    own = f"0::/docker/{CONTAINER}/nomad\n"
    task = f"0::/docker/{CONTAINER}/nomad.slice/share.slice/{ALLOCATION}.train.scope\n"
    cgroup = task_cgroup(task, own)
    assert cgroup is not None
    assert cgroup.name == TASK
    assert task_cgroup(own, own) is None


def test_the_oldest_process_was_started_first(tmp_path: Path) -> None:
    """Not the one with the smallest pid: pids begin again when they run out."""
    made = MadeProc(tmp_path)
    made.add(30, started=300, cgroup=nomad_v2())
    made.add(20, started=400, cgroup=nomad_v2())
    made.add(90, started=200, cgroup=nomad_v2())
    cgroup = task_cgroup(nomad_v2())
    assert cgroup is not None
    assert Members(made.proc).oldest(cgroup) == Identity(90, 200)
    made.end(90)
    assert Members(made.proc).oldest(cgroup) == Identity(30, 300)


def test_nomads_own_executor_is_no_process_of_the_task(tmp_path: Path) -> None:
    """Nomad before 1.7 starts a raw_exec task by a process that is in the task's cgroup too."""
    made = MadeProc(tmp_path)
    made.add(30, started=300, cgroup=old_nomad_v1(), environment={"PATH": "/bin"})
    made.add(40, started=400, cgroup=old_nomad_v1(), environment=ALLOCATED, parent=30)
    made.add(50, started=500, cgroup=old_nomad_v1(), environment=ALLOCATED, parent=40)
    cgroup = task_cgroup(old_nomad_v1())
    assert cgroup is not None
    assert Members(made.proc).oldest(cgroup) == Identity(40, 400)
    made.end(40)
    assert Members(made.proc).oldest(cgroup) == Identity(30, 300), "50 is no child of it"


def test_a_tasks_first_process_speaks_for_its_children(tmp_path: Path) -> None:
    """It has what Nomad gives each task, so it is no executor, whatever its children say."""
    made = MadeProc(tmp_path)
    made.add(30, started=300, cgroup=old_nomad_v1(), environment=ALLOCATED)
    made.add(40, started=400, cgroup=old_nomad_v1(), environment=ALLOCATED, parent=30)
    cgroup = task_cgroup(old_nomad_v1())
    assert cgroup is not None
    assert Members(made.proc).oldest(cgroup) == Identity(30, 300)


def test_the_oldest_process_may_be_further_down(tmp_path: Path) -> None:
    """Processes in cgroups that a container made within its own count too."""
    made = MadeProc(tmp_path)
    made.add(30, started=300, cgroup=docker_v2())
    made.add(40, started=200, cgroup=docker_v2().strip() + "/init.scope\n")
    cgroup = task_cgroup(docker_v2())
    assert cgroup is not None
    assert Members(made.proc).oldest(cgroup) == Identity(40, 200)


def test_cgroups_without_end_are_looked_at_in_part(tmp_path: Path) -> None:
    """A container that nests its cgroups deeper than Python can go hides nobody else's use."""
    made = MadeProc(tmp_path)
    made.add(30, started=300, cgroup=docker_v2())
    cgroup = task_cgroup(docker_v2())
    assert cgroup is not None
    place = made.cgroups / "unified" / cgroup.path.lstrip("/")
    nested = [Path(f"{place}{'/d' * depth}") for depth in range(1, 1200)]
    for folder in nested:
        folder.mkdir()
    try:
        assert Members(made.proc).oldest(cgroup) == Identity(30, 300)
    finally:
        for folder in reversed(nested):
            folder.rmdir()


def test_members_are_found_under_cgroup_v1(tmp_path: Path) -> None:
    """The hierarchy of the freezer says who belongs to a task."""
    made = MadeProc(tmp_path)
    made.add(30, started=300, cgroup=nomad_v1())
    cgroup = task_cgroup(nomad_v1())
    assert cgroup is not None
    assert Members(made.proc).oldest(cgroup) == Identity(30, 300)


@pytest.mark.parametrize(
    "cgroup",
    [
        TaskCgroup(TASK, "", "/gone"),
        TaskCgroup(TASK, "pids", "/not-mounted"),
        TaskCgroup(TASK, "", "/../../etc"),
    ],
)
def test_a_cgroup_that_cannot_be_read_has_no_members(tmp_path: Path, cgroup: TaskCgroup) -> None:
    """A cgroup that was removed, is not mounted here, or lies outside of what we see."""
    assert Members(MadeProc(tmp_path).proc).oldest(cgroup) is None


def test_a_part_of_a_hierarchy_may_be_mounted(tmp_path: Path) -> None:
    """In a container the mount may show a part of the hierarchy only."""
    made = MadeProc(tmp_path)
    part = made.cgroups / "part"
    (made.root / "1/mountinfo").write_text(f"1 2 0:3 /outer {part} rw - cgroup2 cgroup2 rw\n")
    task = part / f"{ALLOCATION}.train.scope"
    task.mkdir(parents=True)
    (task / "cgroup.procs").write_text("7\n")
    made.add(7, started=5)
    members = Members(made.proc)
    assert members.oldest(TaskCgroup(TASK, "", f"/outer/{task.name}")) == Identity(7, 5)
    assert members.oldest(TaskCgroup(TASK, "", f"/other/{task.name}")) is None


@pytest.mark.parametrize("letter", ["\u2028", "\x0c", "\x85", "\x1e", "\r"])
def test_a_name_cannot_forge_another_line(letter: str) -> None:
    """A task that can make sub-cgroups names one after another task's; only a line feed is none."""
    victim = "/nomad.slice/share.slice/0aa2d5c5-1bfa-4d8e-a3ff-0c5c0a3a2d10.train.scope"
    own = "/nomad.slice/share.slice/9bb2d5c5-1bfa-4d8e-a3ff-0c5c0a3a2d10.own.scope"
    assert task_cgroup(f"0::{victim}\n", "") is not None
    forged = task_cgroup(f"0::{own}/{letter}0::{victim}\n", "")
    assert forged is None or forged.name.task != "train"
