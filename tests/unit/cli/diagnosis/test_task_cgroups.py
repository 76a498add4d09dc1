# SPDX-License-Identifier: MPL-2.0
"""Which Nomad proves whose a process is. The checks and `top` say it."""

from __future__ import annotations

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.nomad_bugs import Version
from nomad_nvidia_vgpu.cli.diagnosis.task_cgroups import ends_tasks, unproven
from nomad_nvidia_vgpu.config.decode import decode


def test_what_ends_tasks_is_named_as_it_is_written() -> None:
    """Both options, and neither by default."""
    both = {"memory_guard": {"action": "kill"}, "health": {"end_tasks": True}}
    written = ['memory_guard { action = "kill" }', "health { end_tasks = true }"]
    assert ends_tasks(decode({"vgpus": 2, **both})) == written
    assert ends_tasks(decode({"vgpus": 2})) == []


@pytest.mark.parametrize(
    ("version", "unified", "no_cgroups", "proven"),
    [
        ((1, 1, 2), False, False, True),
        ((1, 1, 2), True, False, False),
        ((1, 2, 16), True, False, False),
        ((1, 3, 0), True, False, True),
        ((1, 6, 3), False, True, False),
        ((1, 6, 3), True, "true", False),
        ((1, 7, 0), True, True, True),
        (None, True, True, True),
    ],
)
def test_it_depends_on_version_and_cgroups(
    version: Version | None,
    *,
    unified: bool,
    no_cgroups: bool | str,
    proven: bool,
) -> None:
    """Of a version that is not known nothing is said."""
    raw_exec = {"no_cgroups": no_cgroups}
    said = unproven(version, unified=unified, raw_exec=raw_exec, acts=["kill"])
    assert (said is None) is proven
    assert unproven(version, unified=unified, raw_exec=raw_exec, acts=[]) is None
