# SPDX-License-Identifier: MPL-2.0
"""What surrounds the experiments: processes are ended, settings left alone, answers reported."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gpu import measure, report
from gpu.clients import Client, Refused, Silent
from gpu.lab import Lab, Setup
from gpu.report import QUESTIONS, Result
from gpu.sweep import marked, sweep

from .conftest import Cuda

PATIENCE_S = 100.0
SETUP = Setup("GPU-0", (), 8192, "", may_set_compute_mode=False)


def nothing(text: str) -> None:
    """No log."""


@pytest.fixture
def client(cuda: Cuda, tmp_path: Path) -> Iterator[Client]:
    """Gives a client that holds the pretended GPU."""
    with Client(nothing, str(tmp_path), cuda.environment(), "hold") as started:
        started.until("holding", PATIENCE_S)
        yield started


def test_a_client_is_heard_and_told(client: Client) -> None:
    """An experiment has it work when the time has come."""
    client.tell("go")
    assert client.until("ran", PATIENCE_S)["seconds"] >= 0


def test_a_client_that_ended_is_not_waited_for(client: Client) -> None:
    """Silence is told from an end."""
    client.tell("end")
    with pytest.raises(Silent, match="ended without 'ran'"):
        client.until("ran", PATIENCE_S)


def test_a_refusal_carries_the_number(cuda: Cuda, tmp_path: Path) -> None:
    """What an experiment reports of a client that failed."""
    environment = cuda.environment(FAKE_CUDA_FAULT="cuInit=805")
    with Client(nothing, str(tmp_path), environment, "info") as started:
        with pytest.raises(Refused, match="cuInit: error 805") as caught:
            started.until("ready", PATIENCE_S)
        assert caught.value.error == 805


def test_only_what_an_experiment_started_is_ended(client: Client, tmp_path: Path) -> None:
    """Processes that carry the experiment's mark, and no other."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert [pid for pid, _ in marked(tmp_path)] == [client.pid]
        assert sweep(tmp_path, nothing) == []
        assert client.process.wait(PATIENCE_S) < 0
        assert other.poll() is None
        other.kill()


def test_a_part_that_fails_is_an_answer(tmp_path: Path) -> None:
    """The next part is tried, and the report says what could not be answered."""
    answers = tmp_path / "answers"
    with Lab(SETUP._replace(answers=str(answers)), tmp_path) as lab:
        with lab.part("Does it work?", g=3):
            raise ValueError("it broke")
        lab.answer("And this?", "yes", promised=True)
    text = answers.read_text()
    assert "not answered: ValueError: it broke" in text
    assert "And this?" in text


def test_the_compute_mode_is_not_set_without_leave(tmp_path: Path) -> None:
    """A GPU that is lent is given back as it was."""
    with (
        Lab(SETUP, tmp_path) as lab,
        pytest.raises(PermissionError, match="not ours to set"),
    ):
        lab.plugin(4, lab.root(), exclusive_process=True)


def test_without_a_gpu_nothing_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No result, no failure, and the reason."""
    monkeypatch.setattr(measure, "_find", lambda *_: "there is none")
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["measure", "--out", str(tmp_path)])
    assert measure.main() == 0
    assert "no GPU was measured: there is none" in capsys.readouterr().out
    assert (tmp_path / "report.md").read_text() == "Nothing was measured: there is none\n"


def test_an_experiment_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others follow after its time, not after its end."""
    program = tmp_path / "hang"
    program.write_text("#!/bin/sh\nsleep 1000\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    began = time.monotonic()
    with (tmp_path / "raw").open("w") as raw:
        result = measure._one("machine", tmp_path, "e0", 0.2, raw)
    assert result.end == "not finished within 0.2 s"
    assert time.monotonic() - began < 1000
    assert list(marked(tmp_path / "e0")) == []


def test_the_report_has_all_nine_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those without an answer say so, and a broken promise is no success."""
    records: list[dict[str, Any]] = [
        {"question": "Is 3 | 4?", "seen": "no", "promised": False, "g": None},
        {"question": "How?", "seen": "so", "promised": None, "g": 6},
        {"table": "Figures", "header": ["a"], "rows": [["1"]]},
    ]
    status = report.write(tmp_path, [Result("fault", "done", 1.0, records)], "")
    text = (tmp_path / "report.md").read_text()
    assert status == 1
    assert "| Is 3 \\| 4? | no | **no** |" in text
    assert text.count("| not answered |") == len(QUESTIONS) - 1
    assert "Figures:\n\n| a |\n|---|\n| 1 |" in text
    assert "1 promises broken" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("end", "promised", "changed", "status"),
    [
        ("done", True, "", 0),
        ("done", None, "", 0),
        ("not run: the time was over", True, "", 1),
        ("done", True, "compute mode", 1),
    ],
)
def test_success_means_all_was_done_and_nothing_changed(
    tmp_path: Path, end: str, promised: object, changed: str, status: int
) -> None:
    """Whoever reads the exit status need not read the report."""
    record = {"question": "?", "seen": "!", "promised": promised, "g": None}
    assert report.write(tmp_path, [Result("fault", end, 1.0, [record])], changed) == status
