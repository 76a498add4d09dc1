# SPDX-License-Identifier: MPL-2.0
"""Gathering what is known of a node."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from nomad_nvidia_vgpu.cli.diagnosis import facts
from nomad_nvidia_vgpu.cli.diagnosis.facts import gathered, read_config
from nomad_nvidia_vgpu.cli.diagnosis.nomad_api import NomadLook
from nomad_nvidia_vgpu.cli.diagnosis.running import Running
from nomad_nvidia_vgpu.config.blocks import MpsConfig
from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus
from nomad_nvidia_vgpu.sharing.mps.view import DaemonView
from unit.cli.diagnosis.nodes import NO_NOMAD, agent, driver, group, node, offered, written
from unit.cli.diagnosis.nodes import facts as made
from unit.example_gpus import gpu

PATIENCE_S = 100.0


def answering(root: Path, **ways: Any) -> Any:
    """A node with a driver, a daemon and Nomad, except for these ways."""
    found: dict[str, Any] = {
        "driver": lambda _simulate: driver(gpu("GPU-a")),
        "daemons": lambda config, _path: [DaemonView(config.root, "ready")],
        "nomad": lambda _environment, name: offered(node_id=name),
    }
    return node(root, **{**found, **ways})


def hang(*_args: object) -> Any:
    """Never returns."""
    time.sleep(PATIENCE_S * 100)


def fail(*_args: object) -> Any:
    """Raises what nobody expects."""
    raise RuntimeError("nobody expects it")


def config(root: Path, options: str) -> Path:
    """A file with a block of these options."""
    return written(root / "a.hcl", f'plugin "nvidia-vgpu" {{\nconfig {{\n{options}\n}}\n}}\n')


def test_the_options_of_our_block_decide_what_is_looked_at(tmp_path: Path) -> None:
    """Simulated GPUs, the root of MPS, and what would be published."""
    asked = 'vgpus = 2\nmps {\n root = "/run/x"\n}'
    known = gathered(answering(tmp_path), [config(tmp_path, asked)], PATIENCE_S)
    assert known.config.vgpus == 2
    assert known.daemon_views == (DaemonView("/run/x", "ready"),)
    assert [len(group.instances) for group in known.groups] == [2]
    assert known.nomad.node_id == "n1"


def test_daemons_are_asked_by_the_tool_of_the_agents_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell's may be of another driver, or not there."""
    monkeypatch.setattr(facts, "look_at_running", lambda *_: Running(agent(path="/agent/bin")))
    monkeypatch.setenv("PATH", "/shell/bin")
    on = answering(tmp_path, daemons=lambda _config, path: [DaemonView("GPU-a", str(path))])
    known = gathered(on, [config(tmp_path, "vgpus = 2")], PATIENCE_S)
    assert known.daemon_views == (DaemonView("GPU-a", "/agent/bin"),)


def test_ways_are_given_what_they_need(tmp_path: Path) -> None:
    """The environment is the node's, not this process's."""

    def asks(environment: Mapping[str, str], _name: str) -> NomadLook:
        return offered(node_id=environment["NOMAD_ADDR"])

    def looks(simulate: Sequence[SimulatedGpus]) -> Any:
        return driver(version=str(len(simulate)))

    on = answering(tmp_path, nomad=asks, driver=looks, environment={"NOMAD_ADDR": "http://x"})
    known = gathered(on, [config(tmp_path, 'vgpus = 2\nsimulate = ["t4"]')], PATIENCE_S)
    assert (known.nomad.node_id, known.driver.version) == ("http://x", "1")


def test_the_agents_configuration_says_where_to_ask(tmp_path: Path) -> None:
    """Whoever names the files should not have to say it again; NOMAD_ADDR wins over them."""
    file = written(tmp_path / "a.hcl", 'ports {\n  http = 14646\n}\ntls {\n  ca_file = "/ca"\n}\n')

    def asks(environment: Mapping[str, str], _name: str) -> NomadLook:
        return offered(node_id=" ".join(f"{k}={v}" for k, v in sorted(environment.items())))

    for environment, found in (
        ({"NOMAD_ADDR": "", "NOMAD_TOKEN": "t"}, "NOMAD_ADDR=http://127.0.0.1:14646 NOMAD_TOKEN=t"),
        ({"NOMAD_ADDR": "http://x"}, "NOMAD_ADDR=http://x"),
    ):
        on = answering(tmp_path, nomad=asks, environment=environment)
        assert gathered(on, [file], PATIENCE_S).nomad.node_id == found
    on = answering(tmp_path, nomad=fail)
    assert gathered(on, [file], PATIENCE_S).nomad.address == "http://127.0.0.1:14646"


def test_what_hangs_is_given_up_and_the_rest_is_known(tmp_path: Path) -> None:
    """A driver in its grave must not keep the doctor."""
    on = answering(tmp_path, driver=hang, daemons=hang, nomad=hang)
    known = gathered(on, [config(tmp_path, "vgpus = 2")], 1.0)
    assert "driver does not answer in time" in known.driver.problem
    assert known.daemons == "does not answer in time"
    assert (known.nomad.problem, known.nomad.refused) == ("does not answer in time", False)


def test_what_fails_is_said_in_its_words(tmp_path: Path) -> None:
    """Nothing is an exception."""
    on = answering(tmp_path, driver=fail, daemons=fail, nomad=fail)
    known = gathered(on, [config(tmp_path, "vgpus = 2")], PATIENCE_S)
    assert "nobody expects it" in known.driver.problem
    assert "nobody expects it" in str(known.daemons)
    assert known.daemon_views == ()
    assert "nobody expects it" in known.nomad.problem


def test_a_config_that_cannot_be_read_leaves_the_defaults(tmp_path: Path) -> None:
    """The driver and Nomad are looked at all the same."""
    known = gathered(answering(tmp_path), [tmp_path / "no"], PATIENCE_S)
    assert known.configured.agent is None
    assert known.configured.problems
    assert known.config.mps == MpsConfig()
    assert known.nomad != NO_NOMAD


def test_a_disk_that_hangs_is_given_up(tmp_path: Path) -> None:
    """A named pipe without a writer stands for it."""
    os.mkfifo(tmp_path / "a.hcl")
    known = gathered(answering(tmp_path), [tmp_path / "a.hcl"], 1.0)
    assert "does not answer in time" in known.configured.problems[0]


def test_wrong_options_are_told_from_wrong_files(tmp_path: Path) -> None:
    """Each has a remedy of its own."""
    found = read_config([config(tmp_path, "vgpus = 0")])
    assert found.agent is not None
    assert (found.problems, len(found.option_problems)) == ((), 1)


def test_of_wrong_options_simulate_is_kept(tmp_path: Path) -> None:
    """One slip must not make a node without GPUs miss a driver; a wrong one is none."""
    slip = read_config([config(tmp_path, 'vgpu = 2\nsimulate = ["t4:3"]')])
    assert [entry.number for entry in slip.config.simulate] == [3]
    assert slip.option_problems
    assert not slip.config.configured
    assert read_config([config(tmp_path, 'vgpus = 2\nsimulate = ["?"]')]).config.simulate == ()


class SlowNomad:
    """Offers the node's vGPUs from the n-th time on that it is asked; counts in a file."""

    def __init__(self, root: Path, asked: int) -> None:
        """It is asked by processes of their own."""
        self._counted = written(root / "asked", "")
        self._asked = asked

    def __call__(self, _environment: Mapping[str, str], _name: str) -> NomadLook:
        """What it offers by now."""
        with self._counted.open("a") as counted:
            counted.write(".")
        if self.times < self._asked:
            return offered()
        return offered(group("NVIDIA L4", ["GPU-a-0", "GPU-a-1"]))

    @property
    def times(self) -> int:
        """How often it was asked."""
        return len(self._counted.read_text())


def started(root: Path, age_s: float) -> Path:
    """The file of an agent that has run for so long."""
    file = config(root, "vgpus = 2")
    place = root / "proc" / "7"
    written(place / "cmdline", f"/usr/bin/nomad\0agent\0-config={file}\0")
    written(place / "stat", f"7 (nomad) S 1 {'0 ' * 17}0 0")
    written(root / "proc/uptime", f"{age_s} 0")
    written(place / "comm", "nomad\n")
    written(place / "status", "Uid:\t0\t0\t0\t0\n")
    for process in (place, root / "proc/self"):
        (process / "ns").mkdir(parents=True)
        (process / "ns/mnt").symlink_to("mnt:[4026531841]")
        (process / "root").symlink_to("/")
    return file


def test_an_agent_that_has_just_started_is_asked_until_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever restarts it asks next whether all is well, and Nomad's node is ready before its GPUs."""
    monkeypatch.setattr(facts, "SETTLED_S", PATIENCE_S)
    monkeypatch.setattr(facts, "_AGAIN_S", 0.01)
    nomad = SlowNomad(tmp_path, 3)
    known = gathered(answering(tmp_path, nomad=nomad), [started(tmp_path, 1.0)], PATIENCE_S)
    assert nomad.times == 3
    assert known.nomad.groups == nomad({}, "n1").groups


def test_an_agent_that_has_run_for_long_is_asked_once(tmp_path: Path) -> None:
    """What it does not offer by now it will not."""
    nomad = SlowNomad(tmp_path, 3)
    known = gathered(answering(tmp_path, nomad=nomad), [started(tmp_path, 100.0)], PATIENCE_S)
    assert (nomad.times, known.nomad.groups) == (1, ())


def test_an_agent_is_not_waited_for_when_it_is_old_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something is wrong then, and is said."""
    monkeypatch.setattr(facts, "_AGAIN_S", 0.01)
    nomad = SlowNomad(tmp_path, 10**6)
    age_s = facts.SETTLED_S - 0.5
    known = gathered(answering(tmp_path, nomad=nomad), [started(tmp_path, age_s)], PATIENCE_S)
    assert nomad.times > 1
    assert known.nomad.groups == ()


def test_programs_are_those_of_the_agent_that_runs(tmp_path: Path) -> None:
    """By its PATH, which may lack what a shell has; without one it is our own."""
    asked: list[str | None] = []

    def which(program: str, path: str | None) -> str | None:
        asked.append(path)
        return program

    def output(_command: Sequence[str], path: str | None) -> str:
        asked.append(path)
        return ""

    on = node(tmp_path, which=which, output=output)
    for running in (Running(agent(path="/opt/bin")), Running()):
        known = made(tmp_path, on=on, running=running)
        known.which("nomad")
        known.output(["nvidia-ctk"])
    assert asked == ["/opt/bin", "/opt/bin", None, None]
