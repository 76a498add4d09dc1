# SPDX-License-Identifier: MPL-2.0
"""The plugin block that `install` writes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.cli.agent.config import read_agent_config
from nomad_nvidia_vgpu.cli.agent.given import checked_config
from nomad_nvidia_vgpu.cli.agent.installation import as_written
from nomad_nvidia_vgpu.cli.agent.plugin_block import block_json, block_text, settings
from nomad_nvidia_vgpu.config.declaring import LABELLED
from nomad_nvidia_vgpu.config.options import all_options
from nomad_nvidia_vgpu.errors import ConfigError

ODD = st.text("abz09 #/*$%{}()'=~é,:-_.\N{SNOWMAN}", min_size=1, max_size=12).filter(
    lambda text: "${" not in text and "%{" not in text and text.strip()
)
WORDS = st.text("abz09#/*$%{}()'=~é:-_.", min_size=1, max_size=8).filter(
    lambda text: "${" not in text and "%{" not in text
)
XIDS = st.lists(st.integers(1, 9999), max_size=3)
DURATIONS = st.sampled_from(["1s", "1m30s", "250ms", "2h"])
SIZES = st.sampled_from(["10GiB", "4.5 GiB", "512 MB"])

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "enabled": st.booleans(),
    "vgpus": st.integers(1, 256),
    "vgpu_memory": SIZES,
    "ignored_gpu_ids": st.lists(WORDS, max_size=3),
    "fingerprint_period": DURATIONS,
    "vendor": st.sampled_from(["letmutx", "nvidia.com", "0_a-b"]),
    "group_by": st.sampled_from(["model", "gpu"]),
    "sharing": st.sampled_from(["time-slicing", "mps"]),
    "visible_devices_envs": st.lists(st.sampled_from(["A", "_b1"]), min_size=1, max_size=2),
    "device_nodes": st.sampled_from(["none", "cdi"]),
    "memory_isolation": st.sampled_from(["none", "cgroup"]),
    "cdi_spec_dirs": st.lists(WORDS.map(lambda text: f"/{text.replace('/', 'x')}"), min_size=1),
    "framework_hints": st.lists(st.sampled_from(["jax", "pytorch", "tensorflow"]), unique=True),
    "framework_headroom": st.sampled_from(["1GiB", "300 MiB"]),
    "metrics_address": st.sampled_from(["", "127.0.0.1:9400", "[::1]:9400"]),
    "publish_load": st.booleans(),
    "publish_load_interval": DURATIONS.filter(lambda text: text != "250ms"),
    "memory_overcommit": st.sampled_from([1.5, 2.0]),
    "gpu.memory_overcommit": st.sampled_from([1.5, 2.0]),
    "unified_memory_reserve": SIZES,
    "mps.priority": st.sampled_from(["normal", "below-normal"]),
    "gpu.mps_priority": st.sampled_from(["normal", "below-normal"]),
    "simulate": st.lists(st.sampled_from(["t4", "a100-sxm4-80gb:8"]), max_size=2),
    "log_level": st.sampled_from(["trace", "error"]),
    "gpu.vgpus": st.integers(1, 256),
    "gpu.vgpu_memory": SIZES,
    "gpu.sharing": st.sampled_from(["time-slicing", "mps"]),
    "gpu.group_by": st.sampled_from(["model", "gpu"]),
    "gpu.ignored": st.booleans(),
    "gpu.name": st.sampled_from(["L4 half", "a(1)"]),
    "mps.root": st.sampled_from(["/run/x", "/a/b.c"]),
    "mps.memory_limit": st.booleans(),
    "mps.compute_limit": st.booleans(),
    "mps.max_vgpus_per_task": st.integers(1, 256),
    "mps.mount": st.booleans(),
    "mps.exclusive_process": st.booleans(),
    "mps.multi_user": st.booleans(),
    "memory_guard.action": st.sampled_from(["off", "warn", "kill"]),
    "memory_guard.grace": DURATIONS,
    "memory_guard.tolerance_percent": st.integers(0, 100),
    "health.fatal_xids": XIDS,
    "health.ignored_xids": st.just([]),
    "health.recovery_period": DURATIONS,
    "health.end_tasks": st.booleans(),
}


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Gives any config that is in order, as flags or as a file would."""
    flags = draw(st.booleans())

    def some(prefix: str) -> dict[str, Any]:
        names = [path for path in VALUES if path.rpartition(".")[0] == prefix]
        chosen = draw(st.sets(st.sampled_from(names)))
        found = {path.rpartition(".")[2]: draw(VALUES[path]) for path in names if path in chosen}
        if "vgpus" in found:
            found.pop("vgpu_memory", None)
        return {name: as_flag(value) if flags else value for name, value in found.items()}

    made = some("")
    if "vgpu_memory" not in made:
        made["vgpus"] = 4
    for block in ("mps", "memory_guard", "health"):
        if draw(st.booleans()):
            made[block] = some(block)
    labels = draw(st.lists(ODD, max_size=2, unique_by=str.strip))
    if labels:
        made["gpu"] = {label: some("gpu") for label in labels}
    return made


def as_flag(value: Any) -> Any:
    """Gives a value as the command line brings it."""
    if isinstance(value, list):
        return [as_flag(item) for item in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_every_option_is_tried() -> None:
    """A new one must be given values here."""
    assert set(VALUES) == {path.replace(LABELLED, "") for path, _ in all_options()}


@given(configs())
def test_what_is_written_is_read_as_it_was_meant(config: Mapping[str, Any]) -> None:
    """By the plugin's own reader, in both forms; and it is known as what `install` wrote."""
    meant = checked_config(dict(config))
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("a.hcl", block_text(config)), ("a.json", block_json(config))):
            file = Path(folder, name)
            file.write_text(text, encoding="utf-8")
            ours = read_agent_config([file]).ours
            assert ours is not None
            assert checked_config(ours.options) == meant
            assert settings(ours.options) == settings(config)
            assert as_written(text, ours) is (name == "a.hcl")


def test_it_looks_as_if_written_by_hand() -> None:
    """In the order of the docs, numbers without quotes, blocks apart and aligned."""
    given_flags = {
        "gpu": {"*A100*": {"vgpus": "4"}},
        "mps": {"max_vgpus_per_task": "1", "root": "/x"},
        "sharing": "mps",
        "vgpu_memory": "10GiB",
    }
    assert block_text(given_flags).splitlines()[1:] == [
        'plugin "nvidia-vgpu" {',
        "  config {",
        '    vgpu_memory = "10GiB"',
        '    sharing     = "mps"',
        "",
        '    gpu "*A100*" {',
        "      vgpus = 4",
        "    }",
        "",
        "    mps {",
        '      root               = "/x"',
        "      max_vgpus_per_task = 1",
        "    }",
        "  }",
        "}",
    ]


@pytest.mark.parametrize("text", ['a"b', "a\\b", "${node}", "%{if}", "a\x1bb"])
def test_what_nomad_would_read_otherwise_is_refused(text: str) -> None:
    """Quotes and templates: no GPU and no folder is called so."""
    for config in ({"vgpus": 1, "ignored_gpu_ids": [text]}, {"gpu": {text: {"vgpus": 1}}}):
        for written in (block_text, block_json):
            with pytest.raises(ConfigError, match="cannot stand in a configuration of Nomad"):
                written(config)


def test_json_is_a_document_of_its_own() -> None:
    """For an agent whose one file is JSON."""
    document = json.loads(block_json({"vgpus": "4"}))
    assert document == {"plugin": {"nvidia-vgpu": {"config": {"vgpus": 4}}}}
