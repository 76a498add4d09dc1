# SPDX-License-Identifier: MPL-2.0
"""The check of the agent that runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.check_agent_process import rights
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level
from nomad_nvidia_vgpu.cli.diagnosis.running import Running
from unit.cli.diagnosis.nodes import agent, assert_one, facts, levels, node, said

UNIT = "nomad.service"
GROUP = f"/system.slice/{UNIT}"


def by_systemd(
    tmp_path: Path, said: str | OSError, sharing: str = "mps", group: str = GROUP
) -> Facts:
    """A node whose agent is a unit of systemd, which says so of it."""

    def output(command: Sequence[str], _path: str | None) -> str:
        asked = ["-p", "KillMode", "-p", "ControlGroup", "--", UNIT]
        assert list(command) == ["/usr/bin/systemctl", "show", *asked]
        if isinstance(said, OSError):
            raise said
        return f"{said}ControlGroup={group}\n"

    return facts(
        tmp_path,
        options=f'vgpus = 4\nsharing = "{sharing}"',
        on=node(tmp_path, ["systemctl"], output=output),
        running=Running(agent(cgroup=GROUP)),
    )


def test_an_agent_that_is_not_roots_is_an_error(tmp_path: Path) -> None:
    """Whoever looks is root, and finds that all is well."""
    assert_one(rights, facts(tmp_path, running=Running(agent(uid=0))), Level.OK, "pid 40")
    assert levels(rights, facts(tmp_path, running=Running(agent(uid=None)))) == []
    found = facts(tmp_path, running=Running(agent(uid=990)))
    assert_one(rights, found, Level.ERROR, "(pid 40) runs as uid 990", "| run the agent as root")


def test_without_an_agent_nothing_is_said(tmp_path: Path) -> None:
    """That none runs is another check's."""
    assert levels(rights, facts(tmp_path)) == []


@pytest.mark.parametrize("mode", ["control-group", "mixed"])
def test_a_unit_that_ends_the_daemons_is_a_warning(tmp_path: Path, mode: str) -> None:
    """Their tasks would end with every restart of the agent."""
    (_, (level, text)) = said(rights, by_systemd(tmp_path, f"KillMode={mode}\n"))
    assert level is Level.WARNING
    assert f"{UNIT} has KillMode={mode}" in text
    assert "| systemctl edit nomad.service" in text
    assert_one(rights, by_systemd(tmp_path, f"KillMode={mode}\n", "time-slicing"), Level.OK)


@pytest.mark.parametrize("group", ["", "/system.slice/other.service"])
def test_what_systemd_tells_of_another_unit_is_nothing(tmp_path: Path, group: str) -> None:
    """Of a unit that it does not know it tells the defaults."""
    assert_one(rights, by_systemd(tmp_path, "KillMode=control-group\n", group=group), Level.OK)


def test_an_agent_that_cannot_be_looked_at_is_told(tmp_path: Path) -> None:
    """Or the shell would be judged for it, and nobody would know."""
    found = facts(tmp_path, running=Running(problem="does not answer in time"))
    assert_one(rights, found, Level.WARNING, "does not answer in time", "| see `ps axl`")


@pytest.mark.parametrize(
    "said", ["KillMode=process\n", "KillMode=none\n", "", OSError(0, "no bus")]
)
def test_a_unit_that_leaves_them_or_says_nothing_is_ok(tmp_path: Path, said: str | OSError) -> None:
    """As Nomad's own has it; nothing is guessed."""
    assert_one(rights, by_systemd(tmp_path, said), Level.OK)
