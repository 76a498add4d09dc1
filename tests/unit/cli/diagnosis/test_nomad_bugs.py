# SPDX-License-Identifier: MPL-2.0
"""The table of Nomad's bugs."""

from __future__ import annotations

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.nomad_bugs import KNOWN, Version, parsed
from nomad_nvidia_vgpu.config.options import GpuBlock, GpuConfig, PluginConfig


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
    (first,) = [one for one in bugs("1.3.7") if "while it starts" in one]
    assert first.endswith("1.3.8")
    assert not [one for one in bugs("1.3.5") if "while it starts" in one]


def test_current_versions_have_none() -> None:
    """Older ones do, and the oldest cannot do it at all."""
    assert bugs("1.11.3") == []
    assert bugs("2.0.5") == []
    assert len(bugs("1.9.1")) == 1
    assert any("no device plugins" in one for one in bugs("0.8.7"))


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
        assert not [one for one in bugs("1.8.4", config) if "several device blocks" in one]


def test_each_range_ends_after_it_begins() -> None:
    """A slip in the table would hide a bug."""
    assert all(start < end for bug in KNOWN for start, end in bug.ranges)
