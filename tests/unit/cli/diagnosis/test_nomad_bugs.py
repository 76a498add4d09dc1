# SPDX-License-Identifier: MPL-2.0
"""The table of Nomad's bugs."""

from __future__ import annotations

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.nomad_bugs import (
    KNOWN,
    Version,
    asks_for_figures,
    parsed,
    without_built_in,
)
from nomad_nvidia_vgpu.config.blocks import GpuBlock, GpuConfig
from nomad_nvidia_vgpu.config.options import PluginConfig


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("1.11.3", (1, 11, 3)),
        ("Nomad v1.10.8+ent\nBuildDate 2026", (1, 10, 8)),
        ("2.0.0-beta.1", (2, 0, 0)),
        ("no version", None),
    ],
)
def test_versions_are_read_as_nomad_writes_them(text: str, version: Version | None) -> None:
    """From its API and from `nomad version`."""
    assert parsed(text) == version


def bugs(text: str, config: PluginConfig = PluginConfig()) -> list[str]:  # noqa: B008  frozen
    """The effects in a version, with the version that has none."""
    version = parsed(text)
    assert version is not None
    return [
        f"{bug.effect} -> {'.'.join(map(str, fix))}"
        for bug in KNOWN
        if (fix := bug.fix_for(version)) and bug.concerns(config)
    ]


def test_a_bug_of_several_lines_has_the_fix_of_ones_own() -> None:
    """1.3.7 is fixed by 1.3.8, and need not become 1.4."""
    (first,) = [bug for bug in bugs("1.3.7") if "while it starts" in bug]
    assert first.endswith("1.3.8")
    assert not [bug for bug in bugs("1.3.5") if "while it starts" in bug]


def test_current_versions_have_none() -> None:
    """Older ones do, and the oldest cannot do it at all."""
    assert bugs("1.11.3") == []
    assert bugs("2.0.5") == []
    assert len(bugs("1.9.1")) == 1
    assert any("no device plugins" in bug for bug in bugs("0.8.7"))


def test_a_bug_of_several_device_blocks_concerns_groups_of_one_gpu() -> None:
    """Where a count may land on two GPUs, nobody needs two blocks."""
    for config in (
        PluginConfig(group_by="gpu"),
        PluginConfig(gpu=(GpuBlock("*", GpuConfig(group_by="gpu")),)),
    ):
        (found,) = bugs("1.11.3", config)
        assert "several device blocks" in found
        assert found.endswith("-> 2.0.1")
        assert bugs("2.0.1", config) == []
        assert not [bug for bug in bugs("1.8.4", config) if "several device blocks" in bug]


def test_each_range_ends_after_it_begins() -> None:
    """A slip in the table would hide a bug."""
    assert all(start < end for bug in KNOWN for start, end in bug.ranges)


@pytest.mark.parametrize(
    ("text", "has_it"),
    [("1.6.3", True), ("1.6.12", False), ("1.7.7", True), ("1.7.9+ent", False), ("1.8.1", False)],
)
def test_a_repair_for_enterprise_alone_counts(text: str, *, has_it: bool) -> None:
    """In its own line, and the remedy is a version that everybody can have."""
    found = [b for b in bugs(text, PluginConfig(device_nodes="cdi")) if "may not open" in b]
    assert [b[-6:] for b in found] == [" 1.8.1"] * has_it


@pytest.mark.parametrize(
    ("text", "asks"),
    [("1.8.13", False), ("1.8.14", True), ("1.9.9", False), ("1.10.1", False), ("2.0.0", True)],
)
def test_figures_are_to_be_asked_for_from_a_version_of_each_line(text: str, *, asks: bool) -> None:
    """Older ones show them anyway."""
    version = parsed(text)
    assert version is not None
    assert asks_for_figures(version) is asks


def test_nomads_own_plugin_is_told_to_leave_the_gpus() -> None:
    """By an option that its version has."""
    assert without_built_in((1, 2, 0), {}) is None
    assert without_built_in((1, 1, 2), {"enabled": False}) is None
    assert without_built_in((1, 1, 2), {"ignored_gpu_ids": ["GPU-1"]}) is None
    assert (
        without_built_in((1, 1, 2), {})
        == 'write plugin "nvidia-gpu" { config { enabled = false } }'
    )
    assert "ignored_gpu_ids" in (without_built_in((0, 12, 0), {"enabled": False}) or "")
