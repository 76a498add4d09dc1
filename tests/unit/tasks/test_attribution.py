# SPDX-License-Identifier: MPL-2.0
"""From GPU processes to tasks and vGPUs, over a made `/proc`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.state.usage import MpsServer, Task, TaskProcess
from nomad_nvidia_vgpu.tasks.attribution import STALE_S
from unit.example_gpus import gpu, mig
from unit.host.made_proc import (
    ALLOCATION,
    CONTAINER,
    OTHER_ALLOCATION,
    docker_v2,
    nomad_v1,
    nomad_v2,
)
from unit.tasks.attributing import A, B, Node, claims, strays, used

UNUSED = (0, 1000, 0)


@pytest.mark.parametrize("lines", [nomad_v2(), nomad_v1()], ids=["v2", "v1"])
def test_a_process_belongs_to_the_task_of_its_cgroup(tmp_path: Path, lines: str) -> None:
    """Allocation, task, vGPU, pid, memory and budget of a task of Nomad's own drivers."""
    node = Node(tmp_path)
    node.made.add(20, started=500, cgroup=lines, environment=claims("GPU-a-1"))
    node.use("GPU-a", {20: 300})
    use = node.on()
    (share,) = use.shares
    assert (share.task.allocation, share.task.name) == (ALLOCATION, "train")
    assert share.vgpu_ids == ("GPU-a-1",)
    assert share.processes == (TaskProcess(20, 500, 300, "compute"),)
    assert (share.used_mib, share.budget_mib) == (300, 1000)
    assert share.certain
    assert used(use) == {f"GPU-a-{n}": UNUSED for n in (0, 2, 3)} | {"GPU-a-1": (300, 1000, 1)}
    assert use.vgpus["GPU-a-1"].share == share
    assert use.strays == ()


def test_a_container_is_attributed_too(tmp_path: Path) -> None:
    """A container's processes belong to it; Nomad's names are those of its environment."""
    node = Node(tmp_path)
    environment = claims("GPU-a-0", NOMAD_ALLOC_ID="alloc", NOMAD_TASK_NAME="web")
    node.made.add(20, cgroup=docker_v2(), environment=environment)
    node.use("GPU-a", {20: 300})
    (share,) = node.on().shares
    assert (share.task.container, share.task.label) == (CONTAINER, "alloc/web")
    assert share.certain


def test_the_oldest_process_speaks_for_all(tmp_path: Path) -> None:
    """A later process of the task has another environment; only the first one's counts."""
    node = Node(tmp_path)
    node.made.add(20, started=1, cgroup=nomad_v2(), environment=claims("GPU-a-0"))
    node.made.add(21, started=2, cgroup=nomad_v2(), environment=claims("GPU-a-0", "GPU-a-1"))
    node.made.add(22, started=3, cgroup=nomad_v2(), environment={})
    node.use("GPU-a", {21: 100, 22: 200})
    (share,) = node.on().shares
    assert share.vgpu_ids == ("GPU-a-0",)
    assert [p.pid for p in share.processes] == [21, 22]
    assert share.used_mib == 300


def test_a_share_of_several_vgpus_adds_up(tmp_path: Path) -> None:
    """Memory and processes are divided evenly, the first ones getting what is left over."""
    node = Node(tmp_path)
    environment = claims("GPU-a-0", "GPU-a-2", "GPU-a-3")
    node.made.add(20, started=1, cgroup=nomad_v2(), environment=environment)
    node.made.add(21, started=2, cgroup=nomad_v2())
    node.use("GPU-a", {20: 700, 21: 301})
    use = node.on()
    assert use.shares[0].budget_mib == 3000
    assert used(use) == {
        "GPU-a-0": (334, 1000, 1),
        "GPU-a-1": UNUSED,
        "GPU-a-2": (334, 1000, 1),
        "GPU-a-3": (333, 1000, 0),
    }


def test_a_task_on_two_gpus_has_a_share_of_each(tmp_path: Path) -> None:
    """Each GPU counts what is used of it, against what was given of it."""
    node = Node(tmp_path)
    environment = claims("GPU-a-0", "GPU-b-0", "GPU-b-1")
    node.made.add(20, cgroup=nomad_v2(), environment=environment)
    node.use("GPU-a", {20: 100})
    node.use("GPU-b", {20: 200})
    shares = node.look().shares
    assert [(s.gpu_uuid, s.used_mib, s.budget_mib) for s in shares] == [
        ("GPU-a", 100, 1000),
        ("GPU-b", 200, 2000),
    ]


def test_a_gpu_that_the_task_has_no_vgpu_of_is_not_its_own(tmp_path: Path) -> None:
    """A process on another GPU than those of its vGPUs is nobody's there."""
    node = Node(tmp_path)
    node.made.add(20, cgroup=nomad_v2(), environment=claims("GPU-b-0"))
    node.use("GPU-a", {20: 100})
    use = node.on()
    assert use.shares == ()
    assert strays(use) == {20: "its task has no vGPU of this GPU"}
    assert set(used(use).values()) == {UNUSED}


def test_mig_devices_are_gpus(tmp_path: Path) -> None:
    """A process on a MIG device belongs to the vGPUs of that device."""
    node = Node(tmp_path, mig("MIG-1", memory_mib=4000), mig("MIG-2", memory_mib=4000))
    node.made.add(20, cgroup=nomad_v2(), environment=claims("MIG-1-0"))
    node.use("MIG-1", {20: 100})
    node.use("MIG-2", {20: 50})
    assert [s.used_mib for s in node.on("MIG-1").shares] == [100]
    assert strays(node.on("MIG-2")) == {20: "its task has no vGPU of this GPU"}


def test_memory_that_is_not_known_is_not_zero(tmp_path: Path) -> None:
    """One process whose memory the driver does not tell makes that of its task unknown."""
    node = Node(tmp_path)
    node.made.add(20, cgroup=nomad_v2(), environment=claims("GPU-a-0"))
    node.made.add(21, cgroup=nomad_v2())
    node.use("GPU-a", {20: 100, 21: None})
    use = node.on()
    assert use.shares[0].used_mib is None
    assert used(use)["GPU-a-0"] == (None, 1000, 2)


def test_a_gpu_without_known_memory_has_no_budget(tmp_path: Path) -> None:
    """What is used is known, but not out of what."""
    node = Node(tmp_path, gpu("GPU-a", memory_mib=None))
    node.made.add(20, cgroup=nomad_v2(), environment=claims("GPU-a-0"))
    node.use("GPU-a", {20: 100})
    assert used(node.on())["GPU-a-0"] == (100, None, 1)


def test_a_gpu_whose_processes_are_not_listed_is_left_out(tmp_path: Path) -> None:
    """Nothing is said of a GPU of which nothing is known, nor of one that is not published."""
    node = Node(tmp_path, A, B)
    node.use("GPU-a", {})
    node.use("GPU-c", {20: 1})
    assert set(node.look().gpus) == {"GPU-a"}


def test_an_old_list_says_nothing(tmp_path: Path) -> None:
    """A GPU that has not listed its processes for a while is left out."""
    node = Node(tmp_path)
    node.use("GPU-a", {})
    node.now += STALE_S
    assert set(node.look().gpus) == {"GPU-a"}
    node.now += 1
    assert node.look().gpus == {}


# Processes come and go


def test_a_process_that_has_ended_is_left_out(tmp_path: Path) -> None:
    """A process that the driver still lists but that has ended is neither a task's nor a stray."""
    node = Node(tmp_path)
    node.use("GPU-a", {20: 100})
    use = node.on()
    assert (use.shares, use.strays) == ((), ())


def test_a_reused_pid_is_looked_at_anew(tmp_path: Path) -> None:
    """A pid that now is a process of another task's belongs to that task."""
    node = Node(tmp_path)
    node.made.add(20, started=1, cgroup=nomad_v2(), environment=claims("GPU-a-0"))
    node.use("GPU-a", {20: 100})
    assert node.on().shares[0].task.allocation == ALLOCATION
    node.made.add(20, started=2, cgroup=nomad_v2(OTHER_ALLOCATION), environment=claims("GPU-a-1"))
    (share,) = node.on().shares
    assert (share.task.allocation, share.vgpu_ids) == (OTHER_ALLOCATION, ("GPU-a-1",))


def test_a_process_that_is_younger_than_the_list_is_another(tmp_path: Path) -> None:
    """It has got the pid of one that was listed and has ended since; the next list may name it."""
    node = Node(tmp_path)
    (node.made.root / "uptime").write_text("50.00 7.00\n")
    started = 45 * os.sysconf("SC_CLK_TCK")
    node.made.add(20, started=started, cgroup=nomad_v2(), environment=claims("GPU-a-0"))
    node.use("GPU-a", {20: 100})
    node.now += 4.0  # listed when the node was up for 46 s
    assert [p.pid for share in node.on().shares for p in share.processes] == [20]
    node.now += 2.0  # and when it was for 44 s
    assert (node.on().shares, node.on().strays) == ((), ())


def test_a_task_that_was_restarted_is_read_anew(tmp_path: Path) -> None:
    """In a cgroup of the same name, the first process of the new run speaks."""
    node = Node(tmp_path)
    node.made.add(20, started=1, cgroup=nomad_v2(), environment=claims("GPU-a-0"))
    node.use("GPU-a", {20: 100})
    node.look()
    node.made.end(20)
    node.made.add(30, started=9, cgroup=nomad_v2(), environment=claims("GPU-a-3"))
    node.use("GPU-a", {30: 100})
    assert node.on().shares[0].vgpu_ids == ("GPU-a-3",)


def test_an_environment_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    """A task whose first process has not executed its program yet is asked again."""
    node = Node(tmp_path)
    node.made.add(20, cgroup=nomad_v2())
    node.use("GPU-a", {20: 100})
    assert strays(node.on()) == {20: "its task claims no vGPU"}
    node.made.change_environment(20, claims("GPU-a-0"))
    assert node.on().shares[0].vgpu_ids == ("GPU-a-0",)


def test_a_claim_stays_as_it_was_first_read(tmp_path: Path) -> None:
    """A task that changes its environment later changes nothing."""
    node = Node(tmp_path)
    node.made.add(20, cgroup=nomad_v2(), environment=claims("GPU-a-0"))
    node.use("GPU-a", {20: 100})
    node.look()
    node.made.change_environment(20, claims("GPU-a-1", "GPU-a-2"))
    assert node.on().shares[0].vgpu_ids == ("GPU-a-0",)


def test_whether_a_process_still_belongs_is_read_anew(tmp_path: Path) -> None:
    """Before a signal, pid, start and cgroup are checked once more."""
    node = Node(tmp_path)
    node.made.add(20, started=1, cgroup=nomad_v2(), environment=claims("GPU-a-0"))
    node.use("GPU-a", {20: 100})
    (share,) = node.on().shares
    (process,) = share.processes

    def belongs(task: Task = share.task) -> bool:
        return node.attributor.still_belongs(process, task)

    assert belongs()
    assert not belongs(share.task._replace(key="freezer:/nomad/other"))
    node.made.add(20, started=2, cgroup=nomad_v2())
    assert not belongs()
    node.made.end(20)
    assert not belongs()


# Without a cgroup of a task


def test_a_process_outside_of_tasks_is_a_stray(tmp_path: Path) -> None:
    """A process that nobody claims is counted and left alone."""
    node = Node(tmp_path)
    node.made.add(20, cgroup="0::/system.slice/display-manager.service\n")
    node.use("GPU-a", {20: 100}, kind="graphics")
    use = node.on()
    assert strays(use) == {20: "it is in no task's cgroup"}
    assert node.look().strays == 1


def test_without_a_cgroup_the_nearest_ancestor_is_for_display(tmp_path: Path) -> None:
    """Where Nomad makes no cgroups, the environment names the task, but proves nothing."""
    node = Node(tmp_path)
    environment = claims("GPU-a-0", NOMAD_ALLOC_ID="alloc", NOMAD_TASK_NAME="web")
    node.made.add(20, environment=environment)
    node.made.add(21, parent=20, environment={"A": "1"})
    node.made.add(22, parent=21)
    node.use("GPU-a", {20: 100, 22: 200})
    use = node.on()
    (share,) = use.shares
    assert share.task.label == "alloc/web"
    assert [p.pid for p in share.processes] == [20, 22]
    assert not share.certain
    assert used(use)["GPU-a-0"] == (300, 1000, 2)


def test_where_pids_are_not_the_hosts_nothing_is_certain(tmp_path: Path) -> None:
    """In a namespace of its own, the plugin shows what it finds and would end nobody."""
    node = Node(tmp_path, pid_namespace="pid:[4026532222]")
    node.made.add(20, cgroup=nomad_v2(), environment=claims("GPU-a-0"))
    node.use("GPU-a", {20: 100})
    (share,) = node.on().shares
    assert not share.certain


def test_an_agent_in_a_container_has_tasks(tmp_path: Path) -> None:
    """The container that holds the plugin itself is not taken for the task."""
    outer = f"/docker/{'ab' * 32}"
    node = Node(tmp_path, own=f"0::{outer}/agent\n")
    inner = nomad_v2().replace("0::", f"0::{outer}")
    node.made.add(20, cgroup=inner, environment=claims("GPU-a-0"))
    node.use("GPU-a", {20: 100})
    assert node.on().shares[0].task.allocation == ALLOCATION


def test_a_task_that_is_stuck_is_known_when_it_can_be(tmp_path: Path) -> None:
    """Until its environment can be read it is a stray, however many passes that takes."""
    node = Node(tmp_path)
    node.made.add(20, cgroup=nomad_v2())
    node.made.get_stuck(20)
    node.use("GPU-a", {20: 300})
    for _ in range(10):
        assert strays(node.on()) == {20: "its task claims no vGPU"}
    node.made.get_going(20, claims("GPU-a-1"))
    (share,) = node.on().shares
    assert share.vgpu_ids == ("GPU-a-1",)


def test_a_task_that_gets_stuck_is_known_all_the_same(tmp_path: Path) -> None:
    """What was read once need not be read again."""
    node = Node(tmp_path)
    node.made.add(20, cgroup=nomad_v2(), environment=claims("GPU-a-1"))
    node.use("GPU-a", {20: 300})
    node.look()
    node.made.get_stuck(20)
    (share,) = node.on().shares
    assert share.used_mib == 300


def test_a_stuck_process_without_a_cgroup_is_left_out(tmp_path: Path) -> None:
    """Nobody can tell what it, or its parent, would claim; the others are counted."""
    node = Node(tmp_path)
    node.made.add(19)
    node.made.add(20, parent=19)
    node.made.add(30, cgroup=nomad_v2(), environment=claims("GPU-a-1"))
    node.use("GPU-a", {20: 300, 30: 400})
    node.made.get_stuck(19)
    use = node.on()
    assert (strays(use), [share.used_mib for share in use.shares]) == ({}, [400])
    node.made.get_going(19, claims("GPU-a-0"))
    assert [share.used_mib for share in node.on().shares] == [400, 300]


# MPS servers

DAEMON, SERVER = 30, 31


@pytest.mark.parametrize("user", [0, 1000], ids=["multi-user", "the client's user"])
def test_the_server_of_our_daemon_is_no_stray(tmp_path: Path, user: int) -> None:
    """Known by its parent, whoever it runs as and whatever it is called."""
    node = Node(tmp_path)
    node.add_daemon(DAEMON)
    node.made.add(SERVER, parent=DAEMON, user=user, name="anything")
    node.made.add(20, cgroup=nomad_v2(), environment=claims("GPU-a-0"))
    node.use("GPU-a", {SERVER: 300, 20: 100})
    use = node.on()
    assert use.servers == (MpsServer(SERVER, 300),)
    assert (use.strays, use.processes) == ((), 2)
    assert used(use)["GPU-a-0"] == (100, 1000, 1)


def test_a_server_that_outlives_its_daemon_stays_one(tmp_path: Path) -> None:
    """It goes on for the tasks that use it."""
    node = Node(tmp_path)
    node.add_daemon(DAEMON)
    node.made.add(SERVER, parent=DAEMON)
    node.use("GPU-a", {SERVER: 300})
    node.look()
    node.made.end(DAEMON)
    assert node.on().servers == (MpsServer(SERVER, 300),)


def test_no_name_and_no_variable_makes_a_server(tmp_path: Path) -> None:
    """Any user can call his process so, and make its files here root's."""
    node = Node(tmp_path)
    node.add_daemon(DAEMON)
    pipe = {"CUDA_MPS_PIPE_DIRECTORY": str(node.mps_root / "GPU-a/pipe")}
    node.made.add(SERVER, name="nvidia-cuda-mps-server", environment=pipe, user=0)
    node.use("GPU-a", {SERVER: 300})
    assert strays(node.on()) == {SERVER: "it is in no task's cgroup"}


def test_what_a_task_starts_is_never_a_server(tmp_path: Path) -> None:
    """A container may have any parent that is in it."""
    node = Node(tmp_path)
    node.add_daemon(DAEMON)
    node.made.add(SERVER, parent=DAEMON, cgroup=docker_v2(), environment=claims("GPU-a-0"))
    node.use("GPU-a", {SERVER: 300})
    use = node.on()
    assert (use.servers, [share.used_mib for share in use.shares]) == ((), [300])


@pytest.mark.parametrize(
    ("user", "name"),
    [(1000, "nvidia-cuda-mps-control"), (0, "sshd")],
    ids=["a user's program", "another program of root's"],
)
def test_a_lock_of_somebody_else_makes_no_server(tmp_path: Path, user: int, name: str) -> None:
    """It must be held by a daemon that root or this program's user has started."""
    node = Node(tmp_path)
    node.add_daemon(DAEMON, user=user, name=name)
    node.made.add(SERVER, parent=DAEMON)
    node.use("GPU-a", {SERVER: 300})
    assert set(strays(node.on())) == {SERVER}
