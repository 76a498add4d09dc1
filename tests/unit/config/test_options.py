# SPDX-License-Identifier: MPL-2.0
"""The declarations of the options."""

from __future__ import annotations

import json

import pytest

from nomad_nvidia_vgpu.config.declaring import LABELLED, Option
from nomad_nvidia_vgpu.config.options import (
    GpuBlock,
    GpuConfig,
    HealthConfig,
    MemoryGuardConfig,
    MpsConfig,
    PluginConfig,
    all_options,
    options,
)

ALL = dict(all_options())
WITH_DEFAULT = [path for path, option in ALL.items() if option.default_shown]


def default(path: str) -> object:
    """Gives what a config holds for an option where nothing is given."""
    value: object = PluginConfig()
    *blocks, _ = path.split(".")
    if blocks == [f"gpu{LABELLED}"]:
        value, blocks = GpuConfig(), []
    for name in [*blocks, ALL[path].field]:
        value = getattr(value, name)
    return value


def test_every_option_of_the_design_is_there() -> None:
    """The options and their defaults are those that the design lists."""
    assert {path: default(path) for path in ALL} == {
        "enabled": True,
        "vgpus": None,
        "vgpu_memory": None,
        "ignored_gpu_ids": (),
        "fingerprint_period": 60.0,
        "vendor": "letmutx",
        "group_by": "model",
        "memory_overcommit": 1.0,
        "unified_memory_reserve": 16384,
        "publish_load": False,
        "publish_load_interval": 10.0,
        "visible_devices_envs": ("NVIDIA_VISIBLE_DEVICES",),
        "device_nodes": "none",
        "memory_isolation": "none",
        "cdi_spec_dirs": ("/etc/cdi", "/var/run/cdi"),
        "framework_hints": (),
        "framework_headroom": 512,
        "metrics_address": "",
        "simulate": (),
        "log_level": "info",
        "sharing": "time-slicing",
        "mps.root": "/run/nvidia-vgpu/mps",
        "mps.memory_limit": True,
        "mps.compute_limit": True,
        "mps.max_vgpus_per_task": None,
        "mps.mount": False,
        "mps.exclusive_process": True,
        "mps.multi_user": True,
        "mps.priority": "normal",
        'gpu "…".vgpus': None,
        'gpu "…".vgpu_memory': None,
        'gpu "…".sharing': None,
        'gpu "…".group_by': None,
        'gpu "…".memory_overcommit': None,
        'gpu "…".ignored': None,
        'gpu "…".name': None,
        'gpu "…".mps_priority': None,
        "memory_guard.action": "warn",
        "memory_guard.grace": 30.0,
        "memory_guard.tolerance_percent": 5,
        "health.fatal_xids": (),
        "health.ignored_xids": (),
        "health.recovery_period": 60.0,
        "health.end_tasks": False,
    }


@pytest.mark.parametrize("path", WITH_DEFAULT)
def test_a_default_as_shown_is_the_default(path: str) -> None:
    """The default that the docs show, written into a config, is the default."""
    option = ALL[path]
    assert option.kind.read(json.loads(option.default_shown)) == default(path)


@pytest.mark.parametrize("option", ALL.values(), ids=ALL.keys())
def test_every_option_says_what_it_is_for(option: Option) -> None:
    """Each option tells its meaning and what may be written."""
    assert option.doc
    assert option.kind.allowed


def test_a_block_is_listed_with_its_options() -> None:
    """What is in a block is declared by a class, and the block itself holds no value."""
    blocks = {option.name: option.block for option in options() if option.block}
    assert blocks == {
        "gpu": GpuConfig,
        "mps": MpsConfig,
        "memory_guard": MemoryGuardConfig,
        "health": HealthConfig,
    }
    assert not blocks.keys() & ALL.keys()
    assert [option.field for option in options(HealthConfig)] == [
        "fatal_xids",
        "ignored_xids",
        "recovery_period_s",
        "end_tasks",
    ]


def test_a_config_cannot_be_changed() -> None:
    """A config is the same for as long as it lives."""
    with pytest.raises(AttributeError):
        PluginConfig().vgpus = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("config", "configured"),
    [
        (PluginConfig(), False),
        (PluginConfig(vgpus=1), True),
        (PluginConfig(vgpu_memory_mib=10240), True),
        (PluginConfig(gpu=(GpuBlock("GPU-a", GpuConfig(vgpus=1)),)), True),
        (PluginConfig(gpu=(GpuBlock("GPU-a", GpuConfig(ignored=True)),)), False),
        (PluginConfig(vgpus=1, enabled=False), False),
        (PluginConfig(enabled=False), False),
    ],
)
def test_a_config_is_configured_when_it_publishes(config: PluginConfig, configured: object) -> None:
    """A config that is switched on and has a size is configured, and no other."""
    assert config.configured is configured


def test_a_way_of_sharing_may_be_that_of_some_gpus() -> None:
    """What a way of sharing needs is needed when one block asks for it, too."""
    block = GpuBlock("GPU-a", GpuConfig(vgpus=1, sharing="mps"))
    assert PluginConfig(gpu=(block,)).shares_by("mps")
    assert PluginConfig(sharing="mps").shares_by("mps")
    assert not PluginConfig(gpu=(GpuBlock("GPU-a", GpuConfig(vgpus=1)),)).shares_by("mps")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("A100:2", 'got "A100:2": did you mean "a100-sxm4-40gb"?'),
        ("h20", 'got "h20": did you mean "h200"?'),
        ("l4:0", 'must ask for 1 to 64 GPUs, got "l4:0"'),
        ("voodoo2", 'got "voodoo2"'),
        ("", 'got ""'),
        (4, "got 4"),
    ],
)
def test_a_wrong_simulated_gpu_is_shown(entry: object, said: str) -> None:
    """With the profile that it may have been meant to be."""
    with pytest.raises(ValueError, match=r"^entries must ") as refused:
        ALL["simulate"].kind.read([entry])
    assert str(refused.value).endswith(said)
