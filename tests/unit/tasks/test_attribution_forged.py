# SPDX-License-Identifier: MPL-2.0
"""What a task that forges its environment can bring about: nothing against its neighbours."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomad_nvidia_vgpu.config.blocks import MemoryGuardConfig
from nomad_nvidia_vgpu.state.usage import StrayProcess
from nomad_nvidia_vgpu.tasks.guard import ExcessWatch
from unit.host.made_proc import OTHER_ALLOCATION, docker_v2, nomad_v2
from unit.tasks.attributing import Node, claims, strays, used

VICTIM, FORGER = 20, 66
UNUSED = (0, 1000, 0)
IN_DISPUTE = "another task claims a vGPU of its task, too"


def two_tasks(
    tmp_path: Path, victim: dict[str, str], forger: dict[str, str], *, vgpus: int = 4
) -> Node:
    """Gives a node with an honest task that uses 1500 MiB, and a forger that uses 100."""
    node = Node(tmp_path, vgpus=vgpus)
    node.made.add(VICTIM, cgroup=nomad_v2(), environment=victim)
    node.made.add(FORGER, cgroup=nomad_v2(OTHER_ALLOCATION, "forger"), environment=forger)
    node.use("GPU-a", {VICTIM: 1500, FORGER: 100})
    return node


@pytest.mark.parametrize(
    "forged",
    [
        claims("GPU-a-0", "GPU-a-1"),
        claims("GPU-a-1"),
        claims("GPU-a-0"),
        claims("GPU-a-0", "GPU-a-1", "GPU-a-2", "GPU-a-3"),
        claims("GPU-a-1", "GPU-b-0", NVIDIA_VGPU_BUDGETS="GPU-a=1"),
        {},
    ],
    ids=["all of its", "one of its", "its first", "all there are", "budgets too", "nothing"],
)
def test_a_forger_cannot_get_its_neighbour_ended(tmp_path: Path, forged: dict[str, str]) -> None:
    """Whatever it claims, the guard at its strictest finds no fault with the honest task."""
    node = two_tasks(tmp_path, claims("GPU-a-0", "GPU-a-1"), forged)
    watch = ExcessWatch(MemoryGuardConfig("kill", 0.0, 0))
    for _ in range(5):
        node.now += 2.0
        node.use("GPU-a", {VICTIM: 1500, FORGER: 100})
        victims = [p.pid for v in watch.responses(node.look()) for p in v.victims]
        assert VICTIM not in victims


def test_what_two_tasks_claim_belongs_to_nobody(tmp_path: Path) -> None:
    """Both are strays as a whole: to believe the rest would make the honest one's budget smaller."""
    node = two_tasks(tmp_path, claims("GPU-a-0", "GPU-a-1"), claims("GPU-a-1", "GPU-a-3"))
    use = node.on()
    assert use.shares == ()
    assert strays(use) == {VICTIM: IN_DISPUTE, FORGER: IN_DISPUTE}
    assert use.disputed == ("GPU-a-1",)
    assert used(use) == {"GPU-a-2": UNUSED}  # of the others nobody knows what is used


def test_a_dispute_on_another_gpu_counts_too(tmp_path: Path) -> None:
    """A claim that is in dispute anywhere is not believed anywhere."""
    node = two_tasks(tmp_path, claims("GPU-a-0", "GPU-b-0"), claims("GPU-a-2", "GPU-b-0"))
    assert strays(node.on()) == {VICTIM: IN_DISPUTE, FORGER: IN_DISPUTE}


def test_a_neighbour_that_does_not_use_the_gpu_now_has_its_claim(tmp_path: Path) -> None:
    """A task that used the GPU and lives keeps its claim, though it uses nothing at the moment."""
    node = two_tasks(tmp_path, claims("GPU-a-0"), claims("GPU-a-0"))
    node.use("GPU-a", {VICTIM: 100})
    assert len(node.on().shares) == 1
    node.use("GPU-a", {FORGER: 100})
    assert strays(node.on()) == {FORGER: IN_DISPUTE}
    node.made.end(VICTIM)
    assert [share.task.name for share in node.on().shares] == ["forger"]


def test_a_dispute_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who claims what is said once, again after it was settled, and strays are said once."""
    caplog.set_level("INFO")
    node = two_tasks(tmp_path, claims("GPU-a-0"), claims("GPU-a-0"))
    for _ in range(3):
        node.look()
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(said) == 1
    assert "GPU-a-0: claimed by " in said[0]
    assert f"{OTHER_ALLOCATION}/forger" in said[0]
    assert len([r for r in caplog.records if r.levelname == "INFO"]) == 2
    node.made.end(FORGER)
    node.look()
    node.made.add(
        FORGER, cgroup=nomad_v2(OTHER_ALLOCATION, "forger"), environment=claims("GPU-a-0")
    )
    node.look()
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 2


def test_without_a_cgroup_a_claim_loses(tmp_path: Path) -> None:
    """A process outside of all tasks cannot put a task's claim in dispute."""
    node = Node(tmp_path)
    node.made.add(VICTIM, cgroup=nomad_v2(), environment=claims("GPU-a-0"))
    node.made.add(FORGER, cgroup="0::/user.slice/x.scope\n", environment=claims("GPU-a-0"))
    node.use("GPU-a", {VICTIM: 300, FORGER: 100})
    use = node.on()
    assert [share.used_mib for share in use.shares] == [300]
    assert use.strays == (
        StrayProcess(
            FORGER, 100, "compute", "it is in no task's cgroup and claims what others claim"
        ),
    )
    assert use.disputed == ()


def test_two_claims_without_cgroups_cancel_out(tmp_path: Path) -> None:
    """Of two that prove nothing neither is shown."""
    node = Node(tmp_path)
    node.made.add(VICTIM, environment=claims("GPU-a-0", NOMAD_ALLOC_ID="one"))
    node.made.add(FORGER, environment=claims("GPU-a-0", NOMAD_ALLOC_ID="two"))
    node.use("GPU-a", {VICTIM: 300, FORGER: 100})
    use = node.on()
    assert use.shares == ()
    assert len(use.strays) == 2


def test_a_container_is_no_safer_to_rob(tmp_path: Path) -> None:
    """Claims of containers and of Nomad's own tasks are weighed alike."""
    node = Node(tmp_path)
    node.made.add(VICTIM, cgroup=docker_v2(), environment=claims("GPU-a-0"))
    node.made.add(FORGER, cgroup=nomad_v2(), environment=claims("GPU-a-0"))
    node.use("GPU-a", {VICTIM: 300, FORGER: 100})
    assert strays(node.on()) == {VICTIM: IN_DISPUTE, FORGER: IN_DISPUTE}


def test_vgpus_that_are_not_published_any_more_are_in_doubt(tmp_path: Path) -> None:
    """A task from before the config was changed is shown, and nothing is done to it."""
    node = two_tasks(tmp_path, claims("GPU-a-0", "GPU-a-3"), claims("GPU-a-2"), vgpus=2)
    use = node.on()
    (share,) = use.shares
    assert share.vgpu_ids == ("GPU-a-0",)
    assert share.doubt == "some of its vGPUs are not published any more"
    assert not share.certain
    assert strays(use) == {FORGER: "the vGPUs of its task are not published any more"}


def test_a_promise_of_another_config_is_in_doubt(tmp_path: Path) -> None:
    """A task that was promised more than the config says now is not held to the smaller share."""
    promised = claims("GPU-a-0", NVIDIA_VGPU_BUDGETS="GPU-a=2000,GPU-b=1")
    node = two_tasks(tmp_path, promised, claims("GPU-a-2", NVIDIA_VGPU_BUDGETS="GPU-a=1000"))
    by_name = {share.task.name: share for share in node.on().shares}
    assert by_name["train"].doubt == "it was promised 2000 MiB under another config"
    assert by_name["forger"].certain
