# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu top`."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli import top
from nomad_nvidia_vgpu.cli.main import run
from nomad_nvidia_vgpu.cli.running_view import RunningView
from nomad_nvidia_vgpu.errors import DriverError
from nomad_nvidia_vgpu.gpu.model import GpuProcess
from unit.example_gpus import gpu
from unit.gpu.scripted_source import ScriptedSource
from unit.host.made_proc import MadeProc, nomad_v2
from unit.tasks.attributing import claims

SIMULATED = ["top", "--vgpus", "4", "--simulate", "l4:2", "--simulate", "a100-sxm4-40gb:1:3g.20gb"]
MADE = ["top", "--vgpus", "2"]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedSource]:
    """A node with one GPU, one task in a cgroup of Nomad's, and a process of nobody."""
    source = ScriptedSource(gpu("GPU-a", memory_mib=4000))
    made = MadeProc(tmp_path)
    own = claims("GPU-a-1", NOMAD_JOB_ID="llm")
    made.add(70, cgroup=nomad_v2(task="infer"), environment=own)
    made.add(71)
    listed = [GpuProcess(70, 2500, "compute"), GpuProcess(71, 10, "compute")]
    source.listed = {"GPU-a": listed}
    monkeypatch.setattr(top, "source_of", lambda _: source)
    monkeypatch.setattr(top, "Proc", lambda: made.proc)
    yield source
    source.release()


def test_one_look_is_a_table(node: ScriptedSource, capsys: pytest.CaptureFixture[str]) -> None:
    """The GPU, the task on it, what is free and what is nobody's; status 0."""
    assert run([*MADE, "--once"]) == 0
    out = capsys.readouterr().out
    assert "NVIDIA L4" in out
    assert "llm/infer" in out
    assert "not in use" in out
    assert "no task: pid 71" in out
    assert "━" not in out, "bars are for terminals"


def test_simulated_gpus_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """On a laptop too, MIG devices among them; nobody uses them, and it says so."""
    assert run([*SIMULATED, "--once"]) == 0
    out = capsys.readouterr().out
    assert out.count("GPU-") == 2
    assert out.count("MIG-") == 1
    assert out.count("simulated: used by no process") == 3


def test_machines_get_a_document(node: ScriptedSource, capsys: pytest.CaptureFixture[str]) -> None:
    """One look is one document; asked to explain, with what the guard would do."""
    guard = ["--memory-guard-action", "kill", "--explain"]
    assert run([*MADE, "--once", "--json", *guard]) == 0
    document = json.loads(capsys.readouterr().out)
    (gpu,) = document["gpus"]
    assert gpu["usage"]["tasks"][0]["vgpus"] == ["GPU-a-1"]
    assert gpu["usage"]["unattributed"][0]["pid"] == 71
    (verdict,) = document["memory_guard"]
    assert (verdict["task"], verdict["would_end"]) == ("infer", [70])


def test_to_explain_is_to_say_why(node: ScriptedSource, capsys: pytest.CaptureFixture[str]) -> None:
    """Who is above the limit, what would happen, and why a process is nobody's."""
    assert run([*MADE, "--once", "--explain"]) == 0
    out = capsys.readouterr().out
    assert (
        '400 MiB above its limit; when that has lasted for 30 s, the log has a warning; "kill"'
        in out
    )
    assert "it is in no task's cgroup" in out


def test_nothing_to_explain_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody uses a GPU, there is a sentence instead of an empty table."""
    assert run([*SIMULATED, "--once", "--explain"]) == 0
    captured = capsys.readouterr()
    assert "What the memory guard would do" not in captured.out
    assert "the memory guard would do nothing" in captured.err


def test_it_goes_on_until_it_is_left(
    node: ScriptedSource, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One document per line for each look, at the interval that was asked for; Ctrl-C is no error."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    assert run([*MADE, "--json", "--interval", "0.5"]) == 0
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(documents) == 3
    assert slept == [0.5] * 3


def test_a_note_is_made_once(
    node: ScriptedSource, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it should run as root is said, but not each second."""
    looks = iter(range(3))

    def sleep(_: float) -> None:
        if next(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run(MADE) == 0
    captured = capsys.readouterr()
    assert captured.out.count("llm/infer") == 3
    assert captured.err.count("run it as root") == 1


def test_who_is_root_is_not_told_to_be(
    node: ScriptedSource, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is nobody's is no matter of permission then."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert run([*MADE, "--once"]) == 0
    assert "run it as root" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["top"], "give --config what the agent is started with as -config"),
        (["top", "--enabled", "false"], "enabled is false"),
        (["top", "--simulate", "l4"], "vgpus and vgpu_memory are both missing"),
        (
            ["top", "--config", "/dev/null"],
            "vgpus is not set in /dev/null: write it there, or give",
        ),
    ],
)
def test_without_a_size_it_says_what_to_give(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    """How the GPUs are divided is for the operator to say."""
    assert run(arguments) == 1
    assert says in capsys.readouterr().err


def test_no_driver_is_one_sentence(
    node: ScriptedSource, capsys: pytest.CaptureFixture[str]
) -> None:
    """The driver's own sentence, with the remedy."""
    node.driver(DriverError("install the driver"))
    assert run([*MADE, "--once"]) == 1
    assert capsys.readouterr().err == "nvidia-vgpu: install the driver\n"


def test_no_gpu_is_one_sentence(node: ScriptedSource, capsys: pytest.CaptureFixture[str]) -> None:
    """A node without GPUs is not an empty table alone."""
    node.plug()
    assert run([*MADE, "--once"]) == 0
    assert "no GPU that would be published" in capsys.readouterr().err


def test_a_driver_that_hangs_is_one_sentence(
    node: ScriptedSource, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator gets the prompt back."""
    monkeypatch.setattr(top, "PATIENCE_S", 0.05)
    node.hang("look 0")
    assert run([*MADE, "--once"]) == 1
    assert "the driver does not answer" in capsys.readouterr().err
    node.release("look 0")
    for thread in threading.enumerate():
        if thread.name == "look":
            thread.join()


@pytest.mark.parametrize("interval", ["0", "nan", "-1", "1e9", "soon"])
def test_an_interval_must_make_sense(capsys: pytest.CaptureFixture[str], interval: str) -> None:
    """Wrong usage is status 2."""
    assert run([*MADE, "--once", "--interval", interval]) == 2


@pytest.mark.parametrize(("arguments", "status"), [([], 0), (["--once"], 130)])
def test_ctrl_c_ends_it_and_cuts_one_look_short(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
) -> None:
    """It is how one leaves what runs for ever; one look that was asked for was not had."""

    def interrupted(_patience_s: float, _look: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(top, "_within", interrupted)
    assert run([*SIMULATED, *arguments]) == status
    assert capsys.readouterr() == ("", "")


def test_a_guard_that_cannot_act_is_said(
    node: ScriptedSource, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is to end tasks, and Nomad makes no cgroups for them."""
    view = RunningView("as the driver says", {}, "1.6.3", {"no_cgroups": True})
    monkeypatch.setattr(top, "running_view", lambda _: view)
    assert run([*MADE, "--once", "--memory-guard-action", "kill"]) == 0
    assert "leaves its tasks without a cgroup" in capsys.readouterr().err
    assert run([*MADE, "--once"]) == 0
    assert "without a cgroup" not in capsys.readouterr().err
