# SPDX-License-Identifier: MPL-2.0
"""What is published now."""

from __future__ import annotations

import logging
import threading

import pytest

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.gpu.model import GpuProcess, Inventory
from nomad_nvidia_vgpu.sharing.plan import Plan, make_plan
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.sharing.withheld import Holding
from nomad_nvidia_vgpu.state.catalog import Catalog, Edition, Listing
from nomad_nvidia_vgpu.state.usage import UNKNOWN, Usage
from unit.example_gpus import FULL_SAMPLE, NOON, gpu, inventory
from unit.manual_clock import DEADLINE_S, ManualClock

CONFIG = PluginConfig(vgpus=2)
FOUND = inventory(gpu("GPU-a"))


def test_a_fresh_catalog_waits_for_gpus() -> None:
    """Before the first inventory there is nothing, and more is to come."""
    assert Catalog(CONFIG).edition == Edition(0, complete=False, plan=Plan())


@pytest.mark.parametrize("config", [PluginConfig(), PluginConfig(vgpus=2, enabled=False)])
def test_a_catalog_that_publishes_nothing_waits_for_nothing(config: PluginConfig) -> None:
    """Where nothing is to be published, the empty plan is complete from the start."""
    assert Catalog(config).edition.complete


def test_an_inventory_makes_a_new_edition() -> None:
    """Each inventory is planned, under a higher number than the one before."""
    catalog = Catalog(CONFIG)
    catalog.take_inventory(FOUND, complete=False)
    seen = frozenset(seen_gpu.gpu.uuid for seen_gpu in FOUND.gpus)
    assert catalog.edition == Edition(1, False, make_plan(CONFIG, FOUND), seen)
    catalog.take_inventory(Inventory(), complete=True)
    assert catalog.edition == Edition(2, complete=True, plan=Plan(), been_complete=True)


def test_a_load_that_changed_makes_a_new_edition() -> None:
    """And the same load once more makes none."""
    catalog = Catalog(CONFIG._replace(publish_load=True))
    catalog.take_inventory(FOUND, complete=True)
    first = catalog.edition.plan.groups[0].gpus[0]
    held = frozenset({VgpuId(first.gpu.uuid, 0)})
    catalog.take_load(held)
    catalog.take_load(held)
    assert catalog.edition.number == 2
    shared = catalog.edition.plan.groups[0].gpus[0]
    assert (first.free, shared.free) == (first.published, first.published - 1)


def test_a_compute_mode_that_was_set_counts_until_a_look_shows_another() -> None:
    """The last look may be a period old; but what somebody sets later is theirs."""
    catalog = Catalog(CONFIG)
    exclusive, default = (
        inventory(gpu("GPU-a", compute_mode=mode)) for mode in ("EXCLUSIVE_PROCESS", "DEFAULT")
    )
    catalog.take_inventory(exclusive, complete=True)
    assert "EXCLUSIVE_PROCESS" in str(catalog.edition.plan.warnings)
    catalog.take_compute_mode("GPU-a", "DEFAULT")
    catalog.take_inventory(exclusive, complete=True)  # a look that began before
    assert catalog.edition.plan.warnings == ()
    catalog.take_inventory(default, complete=True)
    assert catalog.edition.plan.warnings == ()
    catalog.take_inventory(exclusive, complete=True)
    assert "EXCLUSIVE_PROCESS" in str(catalog.edition.plan.warnings)


def test_samples_are_kept_until_replaced() -> None:
    """The newest sample of each GPU is kept, also when others are sampled."""
    catalog = Catalog(CONFIG)
    catalog.take_samples({"GPU-a": FULL_SAMPLE})
    catalog.take_samples({"GPU-b": FULL_SAMPLE})
    assert set(catalog.samples) == {"GPU-a", "GPU-b"}


def test_samples_are_a_copy() -> None:
    """Whoever holds the samples does not see them change."""
    catalog = Catalog(CONFIG)
    held = catalog.samples
    catalog.take_samples({"GPU-a": FULL_SAMPLE})
    assert held == {}


def test_waiting_ends_with_the_edition_waited_for() -> None:
    """Who waits for an edition is woken by it and given it."""
    catalog = Catalog(CONFIG)
    given: list[Edition] = []
    waiting = threading.Thread(
        target=lambda: given.append(catalog.wait(lambda e: e.complete, DEADLINE_S))
    )
    waiting.start()
    catalog.take_inventory(FOUND, complete=False)
    catalog.take_inventory(FOUND, complete=True)
    waiting.join(DEADLINE_S)
    assert [edition.number for edition in given] == [2]


def test_waiting_ends_with_its_time() -> None:
    """Who waits in vain is given what there is when the time is over."""
    catalog = Catalog(CONFIG)
    catalog.take_inventory(FOUND, complete=False)
    assert catalog.wait(lambda e: e.complete, 0.0).number == 1


def test_waking_makes_who_waits_look_again() -> None:
    """Who waits for something outside the catalog is woken to look at it."""
    catalog = Catalog(CONFIG)
    hung_up = threading.Event()
    asked = threading.Event()

    def until(_edition: Edition) -> bool:
        asked.set()
        return hung_up.is_set()

    waiting = threading.Thread(target=catalog.wait, args=(until, 10 * DEADLINE_S))
    waiting.start()
    assert asked.wait(DEADLINE_S)
    hung_up.set()
    catalog.wake()
    waiting.join(DEADLINE_S)
    assert not waiting.is_alive()


def test_a_warning_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """What is odd about a plan is logged when it begins, not with each plan."""
    caplog.set_level(logging.WARNING)
    catalog = Catalog(CONFIG)
    simulated = inventory(gpu(simulated=True))
    for _ in range(3):
        catalog.take_inventory(simulated, complete=True)
    assert len(caplog.messages) == 1
    assert "simulated" in caplog.messages[0]


def test_a_gpu_that_comes_later_repeats_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Nor does it keep what is known of its neighbours from being settled."""
    caplog.set_level(logging.WARNING)
    catalog = Catalog(CONFIG)
    first = inventory(gpu(simulated=True))
    catalog.take_inventory(first, complete=False)
    assert not catalog.edition.settled_for(["GPU-a"])
    catalog.take_inventory(first, complete=True)
    catalog.take_inventory(first, complete=False)
    assert catalog.edition.settled_for(["GPU-a"])
    assert not catalog.edition.settled_for(["GPU-a", "GPU-new"])
    catalog.take_inventory(first, complete=True)
    assert len(caplog.messages) == 1


def test_no_plan_is_complete_before_it_is_known_what_tasks_hold() -> None:
    """Nomad must not be offered a vGPU that a task of an earlier division holds."""
    catalog = Catalog(CONFIG)
    catalog.expect_holdings()
    catalog.take_inventory(FOUND, complete=True)
    assert not catalog.edition.complete
    uuids = frozenset(seen.gpu.uuid for seen in FOUND.gpus)
    held = Holding("t", None, frozenset({VgpuId("GPU-a", 5)}))
    catalog.take_holdings(frozenset({held}), uuids)
    edition = catalog.edition
    assert edition.complete
    assert edition.plan.by_uuid()["GPU-a"].withheld == {1}
    catalog.take_holdings(frozenset({held}), uuids)
    assert catalog.edition is edition
    catalog.take_holdings(frozenset(), uuids)
    assert catalog.edition.plan.by_uuid()["GPU-a"].withheld == frozenset()


def test_the_newest_list_of_processes_counts() -> None:
    """Each GPU's list is kept with the time it came; those of other GPUs stay."""
    clock = ManualClock(5.0)
    catalog = Catalog(CONFIG, clock)
    old, new = (GpuProcess(1, 10, "compute"),), (GpuProcess(2, 20, "mps"),)
    catalog.take_processes({"GPU-a": old, "GPU-b": old})
    clock.advance(1.0)
    catalog.take_processes({"GPU-b": new})
    assert catalog.listings == {"GPU-a": Listing(5.0, old), "GPU-b": Listing(6.0, new)}
    assert catalog.now() == 6.0


def test_who_uses_what_is_replaced_as_a_whole() -> None:
    """Readers see the newest pass, and what the guard has done; before it, that nothing is known."""
    catalog = Catalog(CONFIG)
    assert (catalog.usage, catalog.guard_counts) == (UNKNOWN, {})
    usage = Usage(NOON, {})
    catalog.take_usage(usage)
    catalog.take_guard_counts({("warned", "GPU-a"): 1})
    assert catalog.usage is usage
    assert catalog.guard_counts == {("warned", "GPU-a"): 1}
