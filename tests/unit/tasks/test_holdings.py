# SPDX-License-Identifier: MPL-2.0
"""What running tasks hold, read from their environments."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.host.cgroups import task_cgroup
from nomad_nvidia_vgpu.host.proc import Proc
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.sharing.withheld import Holding
from nomad_nvidia_vgpu.state.catalog import Catalog
from nomad_nvidia_vgpu.tasks.claims import MOST_CLAIMED, Complaints
from nomad_nvidia_vgpu.tasks.holdings import HoldingsWatch, Said, holdings_of, said_by_tasks
from unit.example_gpus import gpu, inventory
from unit.host.made_proc import ALLOCATION, OTHER_ALLOCATION, MadeProc, docker_v2, nomad_v2

GPUS = frozenset({"GPU-a", "GPU-b"})
KEY = f":/nomad.slice/share.slice/{ALLOCATION}.train.scope"
TASK = {
    "NOMAD_ALLOC_ID": "5c9a",
    "NOMAD_TASK_NAME": "train",
    "NVIDIA_VGPU_IDS": "GPU-a-3,GPU-b-0",
    "NVIDIA_VGPU_BUDGETS": "GPU-a=100,GPU-b=200",
    "NVIDIA_VGPU_GROUP": "letmutx/gpu/NVIDIA L4",
}
HOLDING = Holding(
    KEY,
    "letmutx/gpu/NVIDIA L4",
    frozenset({VgpuId("GPU-a", 3), VgpuId("GPU-b", 0)}),
    (("GPU-a", 100), ("GPU-b", 200)),
)


def said(environment: Mapping[str, str], lines: str = nomad_v2()) -> Said:
    """Gives what a process of a task says."""
    cgroup = task_cgroup(lines)
    assert cgroup is not None
    return Said(cgroup, 1, environment)


def held(*of: Said) -> frozenset[Holding]:
    """Gives what is made of it."""
    return holdings_of(iter(of), GPUS, Complaints(Proc()))


def test_a_task_holds_what_it_was_given() -> None:
    """Ids, budgets and group are those of the reservation."""
    assert held(said(TASK)) == {HOLDING}


def test_a_task_of_many_processes_holds_once() -> None:
    """Children inherit the environment, or parts of it; other tasks hold for themselves."""
    child = {k: v for k, v in TASK.items() if k not in ("NVIDIA_VGPU_BUDGETS", "NVIDIA_VGPU_GROUP")}
    assert held(said(TASK), said(TASK), said(child)) == {HOLDING}
    assert held(said(child), said(TASK)) == {HOLDING}
    assert len(held(said(TASK), said(TASK, nomad_v2(OTHER_ALLOCATION)))) == 2
    assert len(held(said(TASK), said(TASK, docker_v2()))) == 2


def test_what_is_no_task_holds_nothing() -> None:
    """A container that Nomad did not start, and who has no vGPU."""
    assert held(said({**TASK, "NOMAD_ALLOC_ID": ""}, docker_v2())) == frozenset()
    assert held(said({**TASK, "NVIDIA_VGPU_IDS": "nonsense,-"})) == frozenset()
    assert held(said({})) == frozenset()


def test_gpus_that_the_node_lacks_are_left_out() -> None:
    """What is claimed of them costs nothing."""
    ids = ",".join(f"GPU-{n}-{n % 9}" for n in range(4096))
    environment = {**TASK, "NVIDIA_VGPU_IDS": f"{ids[:9000]},GPU-a-3"}
    (holding,) = held(said({**environment, "NVIDIA_VGPU_BUDGETS": "GPU-z=1,GPU-a=100"}))
    assert holding.vgpus == {VgpuId("GPU-a", 3)}
    assert holding.budgets == (("GPU-a", 100),)


def test_large_claims_are_kept_in_part_and_leave_room_for_small_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In sum no more is kept than tasks can have; a user is named once."""
    caplog.set_level(logging.WARNING)
    names = [f"{n:08x}{ALLOCATION[8:]}" for n in range(400)]
    ids = ",".join(f"GPU-{g}-{n}" for g in "ab" for n in range(256))
    greedy = [said({**TASK, "NVIDIA_VGPU_IDS": ids}, nomad_v2(name)) for name in names]
    found = held(*greedy, said(TASK))
    assert HOLDING in found
    assert sum(len(holding.vgpus) for holding in found) <= MOST_CLAIMED
    assert len(caplog.messages) == 1
    assert "claims more vGPUs in its NVIDIA_VGPU_IDS" in caplog.messages[0]


def test_one_task_is_not_listened_to_without_end() -> None:
    """Its processes may each say something else: the first few are heard."""
    claims = [said({**TASK, "NVIDIA_VGPU_IDS": f"GPU-a-{n}"}) for n in range(100)]
    (holding,) = held(*claims)
    assert len(holding.vgpus) == 8


@given(st.dictionaries(st.sampled_from(sorted(TASK)), st.text(max_size=60)))
def test_any_environment_holds_something_or_nothing(environment: dict[str, str]) -> None:
    """A task may write what it likes into its environment."""
    for holding in held(said({**TASK, **environment})):
        assert holding.vgpus
        assert all(mib >= 0 for _, mib in holding.budgets)


def test_only_what_a_task_driver_has_put_into_a_cgroup_is_read(tmp_path: Path) -> None:
    """Any user can start a process that says it holds vGPUs: none of its words is read."""
    made = MadeProc(tmp_path)
    made.add(12, environment=TASK, cgroup=nomad_v2())
    made.add(13, environment=TASK)
    made.add(14, environment=TASK, cgroup="0::/user.slice" + nomad_v2()[3:])
    made.add(15, environment={"HOME": "/root"}, cgroup=nomad_v2())
    (found,) = said_by_tasks(made.proc)
    assert found.pid == 12
    assert TASK.items() <= found.environment.items()


def test_of_a_task_of_very_many_processes_some_are_read(tmp_path: Path) -> None:
    """It decides how many it has, and the others inherit."""
    made = MadeProc(tmp_path)
    for pid in range(100, 300):
        made.add(pid, environment=TASK, cgroup=nomad_v2())
    made.add(400, environment=TASK, cgroup=nomad_v2(OTHER_ALLOCATION))
    pids = [found.pid for found in said_by_tasks(made.proc)]
    assert len(pids) == 65
    assert 400 in pids


@pytest.fixture
def catalog() -> Catalog:
    """Gives the catalog of a node with one GPU, for which it is to be found out who holds it."""
    catalog = Catalog(PluginConfig(vgpus=2))
    catalog.expect_holdings()
    catalog.take_inventory(inventory(gpu("GPU-a")), complete=True)
    return catalog


@pytest.fixture
def made(tmp_path: Path) -> MadeProc:
    """Gives a node on which one task runs, that was given a vGPU of another division."""
    made = MadeProc(tmp_path)
    made.add(12, environment=TASK, cgroup=nomad_v2())
    return made


@pytest.fixture
def watch(catalog: Catalog, made: MadeProc) -> Iterator[HoldingsWatch]:
    """Looks at the processes of that node, once started, until the test ends."""
    watch = HoldingsWatch(catalog, 0.0, made.proc)
    yield watch
    watch.stop()


def withheld(catalog: Catalog, uuid: str = "GPU-a") -> frozenset[int]:
    """Gives what is withheld once all is known."""
    edition = catalog.wait(lambda e: e.complete and uuid in e.plan.by_uuid(), 30)
    assert edition.complete
    return edition.plan.by_uuid()[uuid].withheld


def test_the_watch_tells_what_it_finds(
    catalog: Catalog, made: MadeProc, watch: HoldingsWatch
) -> None:
    """Each look tells all that is held then."""
    assert not catalog.edition.complete
    watch.start()
    assert withheld(catalog) == {1}
    made.end(12)
    edition = catalog.wait(lambda e: not e.plan.by_uuid()["GPU-a"].withheld, 30)
    assert edition.complete
    assert edition.plan.by_uuid()["GPU-a"].withheld == frozenset()


def test_a_gpu_that_comes_later_is_not_offered_before_it_is_looked_for(
    catalog: Catalog, watch: HoldingsWatch
) -> None:
    """What was said of it before was left out."""
    watch.start()
    withheld(catalog)
    catalog.take_inventory(inventory(gpu("GPU-a"), gpu("GPU-b")), complete=True)
    assert withheld(catalog, "GPU-b") == {0}


def test_a_look_that_fails_forgets_nothing(
    catalog: Catalog, made: MadeProc, watch: HoldingsWatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was withheld for tasks that run would be given away."""
    watch.start()
    assert withheld(catalog) == {1}
    number = catalog.edition.number
    made.root.rename(made.root.with_name("gone"))
    while not caplog.messages:
        catalog.wait(lambda _: False, 0.1)
    assert catalog.edition.number == number
    assert withheld(catalog) == {1}


def test_a_stuck_process_hides_no_other(made: MadeProc) -> None:
    """While one cannot be read, what the others hold is told all the same."""
    made.add(11, environment=TASK, cgroup=nomad_v2(OTHER_ALLOCATION))
    made.get_stuck(11)
    assert [found.pid for found in said_by_tasks(made.proc)] == [12]
    made.get_going(11, TASK)
    assert sorted(found.pid for found in said_by_tasks(made.proc)) == [11, 12]
