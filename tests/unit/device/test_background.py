# SPDX-License-Identifier: MPL-2.0
"""What runs behind Nomad's calls. How it begins and ends with them is in `test_plugin.py`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nomad_nvidia_vgpu.config.blocks import HealthConfig, MemoryGuardConfig, MpsConfig
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device.background import Background, background_of, policy_of
from nomad_nvidia_vgpu.gpu.health import DEFAULT_POLICY, HealthPolicy
from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus
from nomad_nvidia_vgpu.state.catalog import Catalog
from nomad_nvidia_vgpu.state.tally import Tally
from unit.example_gpus import gpu, inventory
from unit.gpu.scripted_source import ScriptedSource
from unit.manual_clock import DEADLINE_S

CONFIG = PluginConfig(vgpus=2, memory_guard=MemoryGuardConfig("off"))
SIMULATED = CONFIG._replace(simulate=(SimulatedGpus("l4", 1),))


def built(config: PluginConfig) -> Background:
    """Gives what this config wants to run."""
    return background_of(
        config, Catalog(config), Tally(), ScriptedSource(gpu("GPU-a")), leave=lambda: None
    )


@pytest.mark.parametrize("config", [CONFIG, SIMULATED])
def test_what_is_built_does_not_run(config: PluginConfig) -> None:
    """So that what cannot be built whole leaves nothing behind."""
    before = set(threading.enumerate())
    background = built(config._replace(metrics_address="[::1]:9400"))
    assert set(threading.enumerate()) <= before
    assert background.metrics is not None
    assert not background.metrics.is_alive()


class Part:
    """Says what is called on it, and refuses one of the calls."""

    def __init__(self, name: str, calls: list[str], refused: str = "") -> None:
        """`refused` is the call that fails, with its name: `watch.start`."""
        self._name, self._calls, self._refused = name, calls, refused

    def __getattr__(self, call: str) -> Callable[..., None]:
        """Gives any call."""

        def made(*_: object) -> None:
            self._calls.append(f"{self._name}.{call}")
            if self._calls[-1] == self._refused:
                raise RuntimeError("can't start new thread")

        return made


def in_parts(refused: str = "") -> tuple[Background, list[str]]:
    """Gives one that is made of such parts, and the calls on them."""
    calls: list[str] = []
    parts: Any = {
        name: Part(name, calls, refused)
        for name in ("catalog", "watch", "accountant", "upkeep", "load", "holdings", "metrics")
    }
    return Background(**parts, lists_always=False), calls


def test_no_gpu_is_looked_for_before_it_is_known_what_is_left_on_it() -> None:
    """It would be offered with what an earlier config put in force."""
    background, calls = in_parts()
    background.start()
    assert calls.index("upkeep.expect") < calls.index("watch.start")
    assert calls.index("catalog.expect_holdings") < calls.index("watch.start")


@pytest.mark.parametrize("refused", ["watch.start", "accountant.start", "metrics.start"])
def test_what_cannot_start_whole_has_not_begun_to_keep_daemons(refused: str) -> None:
    """Else it had the lock, and the next that is built could only look, for as long as it lives."""
    background, calls = in_parts(refused)
    with pytest.raises(RuntimeError, match="thread"):
        background.start()
    assert "upkeep.start" not in calls
    assert calls[-1] == "upkeep.stop"


def test_metrics_only_with_an_address() -> None:
    """They cost memory and a port."""
    assert built(CONFIG).metrics is None


def test_what_tasks_hold_is_looked_for_on_real_gpus_only() -> None:
    """Simulated ones have the same UUIDs in every agent of a machine."""
    assert built(CONFIG).holdings is not None
    assert built(SIMULATED).holdings is None


def test_what_tasks_have_is_watched_where_it_is_published() -> None:
    """On simulated GPUs too; and it is stopped with the rest."""
    assert built(CONFIG).load is None
    assert built(CONFIG._replace(publish_load=True)).load is not None
    assert built(SIMULATED._replace(publish_load=True)).load is not None
    background, calls = in_parts()
    background.start()
    background.stop()
    assert {"load.start", "load.stop"} <= set(calls)


def test_a_compute_mode_that_was_restored_is_not_warned_of(mps_root: Path) -> None:
    """The GPU was looked at before that: its facts are out of date until the next look."""
    mps_root.mkdir(mode=0o755)
    (mps_root / "compute-modes.json").write_text(json.dumps({"GPU-a": "DEFAULT"}))
    config = CONFIG._replace(mps=MpsConfig(root=str(mps_root)))
    source = ScriptedSource()
    source.modes["GPU-a"] = "EXCLUSIVE_PROCESS"
    catalog = Catalog(config)
    upkeep = background_of(config, catalog, Tally(), source, leave=lambda: None).upkeep
    assert upkeep is not None
    upkeep.expect()
    upkeep.start()
    looked = inventory(gpu("GPU-a", compute_mode="EXCLUSIVE_PROCESS"))
    catalog.take_inventory(looked, complete=True)
    edition = catalog.wait(lambda edition: edition.complete, DEADLINE_S)
    upkeep.stop()
    assert edition.complete
    assert source.modes == {"GPU-a": "DEFAULT"}
    assert edition.plan.warnings == ()


@pytest.mark.parametrize(
    ("config", "always"),
    [
        (CONFIG, False),
        (CONFIG._replace(memory_guard=MemoryGuardConfig("warn")), True),
        (CONFIG._replace(health=HealthConfig(end_tasks=True)), True),
    ],
)
def test_processes_are_listed_for_who_acts_on_them(config: PluginConfig, always: object) -> None:
    """For stats alone, only while somebody reads them."""
    assert built(config).lists_always is always


def test_the_operators_policy_is_the_watchs() -> None:
    """What the health block says is what GPUs are judged by; without it, the defaults."""
    health = HealthConfig((13,), (79,), recovery_period_s=1.0)
    assert policy_of(PluginConfig(health=health)) == HealthPolicy(
        frozenset({13}), frozenset({79}), recovery_period_s=1.0
    )
    assert policy_of(PluginConfig()) == DEFAULT_POLICY
