# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu doctor` as installed, over the fake driver and the fake MPS; Nomad is in `e2e`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from doctor_findings import own_findings
from libnvidia_ml.driver import FakeDriver

from .conftest import PATIENCE_S, PROGRAM, Start, fact
from .fingerprints import until
from .mps_machine import DEFAULT, EXCLUSIVE, MpsMachine, eventually

NO_NOMAD = {"NOMAD_ADDR": "http://127.0.0.1:1"}
LIMIT_S = 60.0
"""For looks that succeed, on a machine that is busy."""


class Diagnosis:
    """What one run said."""

    def __init__(self, node: FakeDriver, options: str, folder: Path, limit_s: float) -> None:
        """Runs it on this node, with our block in an agent's configuration below `folder`."""
        file = folder / "doctor.hcl"
        file.write_text(f'plugin "nvidia-vgpu" {{\n  config {{\n    {options}\n  }}\n}}\n')
        done = subprocess.run(
            [PROGRAM, "doctor", "--json", "--agent-config", file, "--time-limit", str(limit_s)],
            env={**os.environ, **node.environment(), **NO_NOMAD},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S * 3,
            check=False,
        )
        assert "Traceback" not in done.stderr
        self.status = done.returncode
        self.document: dict[str, Any] = json.loads(done.stdout)
        self._findings = own_findings(self.document)

    def of(self, check: str) -> list[tuple[str, str]]:
        """Level and sentence of each finding of one check, `subject/check`."""
        return [
            (finding["level"], finding["sentence"])
            for finding in self._findings
            if f"{finding['subject']}/{finding['check']}" == check
        ]

    def bad(self, *subjects: str) -> dict[str, str]:
        """What is not ok of these subjects, by check: the last sentence and its remedy."""
        return {
            f"{finding['subject']}/{finding['check']}": f"{finding['sentence']}: {finding['remedy']}"
            for finding in self._findings
            if finding["subject"] in subjects and finding["level"] != "ok"
        }


def doctor(node: FakeDriver, tmp_path: Path, options: str = "vgpus = 4") -> Diagnosis:
    """What is wrong with this node."""
    return Diagnosis(node, options, tmp_path, LIMIT_S)


def mps_options(machine: MpsMachine, sharing: str = "mps") -> str:
    """Options as `MpsMachine.config` has them."""
    machine.root.parent.chmod(0o755)  # the test's own directory is closed
    return f'vgpus = 4\n sharing = "{sharing}"\n mps {{\n root = "{machine.root}"\n }}'


def test_good_gpus_are_ok_and_the_library_is_named(node: FakeDriver, tmp_path: Path) -> None:
    """No query fails on GPUs of three models."""
    node.load("mixed")
    found = doctor(node, tmp_path)
    assert found.bad("driver", "gpus") == {}
    ((level, sentence),) = found.of("driver/library")
    assert (level, f"{node.library}/libnvidia-ml.so.1" in sentence) == ("ok", True)
    assert "590.48.01" in sentence
    assert found.of("gpus/division") == [("ok", "16 vGPUs in 3 device groups")]


@pytest.mark.parametrize("profile", ["a100_mig", "gb10", "gh200", "vgpu_guest"])
def test_what_a_gpu_does_not_support_is_no_fault(
    node: FakeDriver, tmp_path: Path, profile: str
) -> None:
    """MIG devices, unified memory, guests: each lacks something, none of it is broken."""
    node.load(profile)
    assert doctor(node, tmp_path).bad("driver", "gpus") == {}


def test_an_old_driver_is_no_fault(old_library: Path, tmp_path: Path) -> None:
    """Symbols that it lacks are no failing queries."""
    assert doctor(FakeDriver(old_library, tmp_path, "t4_old"), tmp_path).bad("driver", "gpus") == {}


def test_a_driver_that_is_not_loaded_is_an_error(node: FakeDriver, tmp_path: Path) -> None:
    """What needs it is not judged, and named as such."""
    node.set("driver", "init_error", 9)
    found = doctor(node, tmp_path)
    assert found.status == 1
    assert "modprobe nvidia" in found.bad("driver")["driver/library"]
    assert "gpus/health" in found.document["skipped"]


def test_each_fault_of_a_gpu_is_found(node: FakeDriver, tmp_path: Path) -> None:
    """A lost GPU, a query that fails, a MIG mode that waits for a reset."""
    node.load("h100x8")
    node.set("gpu 1", "fault.nvmlDeviceGetPowerUsage", 999)
    node.set("gpu 2", "mig_mode", 0)
    node.set("gpu 2", "mig_mode_pending", 1)
    node.set("gpu 7", "lost", 1)
    found = doctor(node, tmp_path)
    assert found.status == 1
    assert {level for level, _ in found.of("gpus/answers")} == {"ok", "error"}
    ((level, sentence),) = found.of("gpus/queries")
    assert level == "warning"
    assert fact(node, "gpu 1", "uuid") in sentence
    assert "nvmlDeviceGetPowerUsage" in sentence
    assert fact(node, "gpu 2", "uuid") in found.bad("gpus")["gpus/mig"]


@pytest.mark.parametrize("call", ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2"])
def test_a_driver_that_hangs_does_not_keep_the_doctor(
    node: FakeDriver, tmp_path: Path, call: str
) -> None:
    """It is given up, and all else is looked at."""
    node.load("h100x8")
    node.set("driver", f"hang.{call}", 1)
    try:
        found = Diagnosis(node, "vgpus = 4", tmp_path, 5.0)
    finally:
        node.clear("driver", f"hang.{call}")
    assert found.status == 1
    assert "does not answer in time" in found.bad("driver")["driver/library"]
    assert found.of("nomad/agent-config")


def test_simulated_gpus_are_a_warning(node: FakeDriver, tmp_path: Path) -> None:
    """An agent with a forgotten trial looks like one with GPUs."""
    found = doctor(node, tmp_path, 'vgpus = 2\n simulate = ["a100-sxm4-80gb:2"]')
    assert set(found.bad("driver", "gpus", "mps")) == {"gpus/division"}
    assert found.of("gpus/division") == [("warning", "these GPUs are simulated")]


# MPS


def test_mps_at_work_is_ok_and_nothing_is_touched(machine: MpsMachine, start: Start) -> None:
    """Not the daemons, their settings, the directories, nor the driver."""
    options = mps_options(machine)
    host = start(machine.node, **machine.config())
    until(host.fingerprints(), 2)
    eventually(lambda: len(machine.fake.servers()) == 2)
    host.plugin.process.kill()  # what it asks would be taken for ours
    host.plugin.process.wait()
    machine.fake.forget()
    machine.node.forget_calls()
    before = state(machine)

    found = doctor(machine.node, machine.root.parent, options)
    assert found.bad("driver", "gpus", "mps") == {}
    # It says so only if there is nothing else to be said of daemons, those of others included.
    assert found.of("mps/daemons") in ([("ok", "2 MPS daemons at work")], [])
    assert state(machine) == before
    assert machine.fake.starts() == []
    asked = {command.line.split()[0] for command in machine.fake.commands()}
    assert asked
    assert all(word.startswith("get_") for word in asked), asked
    assert not [call for call in machine.node.calls() if "Set" in call and "Event" not in call]


def state(machine: MpsMachine) -> dict[str, tuple[int, int]]:
    """Every file below the root of MPS, with what would tell of a change; but logs."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in machine.root.rglob("*")
        if path.parent.name != "log"
    }


def test_a_node_without_mps_gets_no_directory(machine: MpsMachine) -> None:
    """Looking makes nothing; the daemons that are missing are errors."""
    found = doctor(machine.node, machine.root.parent, mps_options(machine))
    assert not machine.root.exists()
    assert machine.fake.starts() == []
    assert len(found.of("mps/daemons")) == 2
    assert "has no MPS daemon" in found.bad("mps")["mps/daemons"]
    assert "beside its MPS server" in found.bad("mps")["mps/compute-modes"]


def leave_all(machine: MpsMachine, start: Start) -> None:
    """Starts a plugin and kills it, which leaves daemons and compute modes."""
    host = start(machine.node, **machine.config())
    until(host.fingerprints(), 2)
    host.plugin.process.kill()
    host.plugin.process.wait()


def test_what_a_killed_plugin_left_is_found(machine: MpsMachine, start: Start) -> None:
    """Modes and daemons that a node has no use for any more."""
    leave_all(machine, start)
    assert machine.modes() == [EXCLUSIVE, EXCLUSIVE]
    options = mps_options(machine, "time-slicing")
    found = doctor(machine.node, machine.root.parent, options)
    assert found.status == 1
    assert "was left in EXCLUSIVE_PROCESS" in found.bad("mps")["mps/compute-modes"]
    assert "nvidia-vgpu release" in found.bad("mps")["mps/daemons"]
    assert machine.modes() == [EXCLUSIVE, EXCLUSIVE]


def test_daemons_under_another_root_are_found_and_released(
    machine: MpsMachine, start: Start
) -> None:
    """Left when `mps.root` was changed: the remedy works as it stands."""
    leave_all(machine, start)
    options = mps_options(machine).replace(str(machine.root), f"{machine.root}2")
    said = doctor(machine.node, machine.root.parent, options).bad("mps")["mps/daemons"]
    remedy = f"release --mps-root {machine.root}"
    assert f"run nvidia-vgpu {remedy}, start the agent" in said
    subprocess.run(
        [PROGRAM, *remedy.split()], env={**os.environ, **machine.node.environment()}, check=True
    )
    assert machine.fake.daemons() == []
    assert machine.modes() == [DEFAULT, DEFAULT]
    found = doctor(machine.node, machine.root.parent, options)
    assert not [words for _, words in found.of("mps/daemons") if str(machine.root) in words]


def test_daemons_that_died_hang_or_lost_their_directory_are_found(
    machine: MpsMachine, start: Start
) -> None:
    """Each in its own words."""
    leave_all(machine, start)
    options = mps_options(machine)
    machine.fake.hang(pipe=machine.pipe(1))
    (machine.pipe(0) / "control_lock").unlink()
    found = doctor(machine.node, machine.root.parent, options)
    words = "\n".join(sentence for _, sentence in found.of("mps/daemons"))
    assert "does not answer" in words
    assert "which does not know it" in words
    machine.fake.heal()
    machine.fake.stop_all()
    found = doctor(machine.node, machine.root.parent, options)
    assert {sentence.partition(" has ")[2] for _, sentence in found.of("mps/daemons")} == {
        "an MPS daemon's directory and no daemon"
    }


def test_a_mode_that_somebody_took_back_is_a_warning(machine: MpsMachine, start: Start) -> None:
    """`nvidia-smi -c 0` undoes what keeps others out."""
    host = start(machine.node, **machine.config())
    until(host.fingerprints(), 2)
    machine.node.set_compute_mode("gpu 1", DEFAULT)
    found = doctor(machine.node, machine.root.parent, mps_options(machine))
    ((level, sentence),) = found.of("mps/compute-modes")
    assert level == "warning"
    assert machine.uuid(1) in sentence
