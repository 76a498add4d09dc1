# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu why`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from nomad_nvidia_vgpu.cli.main import run
from unit.cli.cluster.made_cluster import (
    block,
    cluster,
    device_group,
    node,
    raw_job,
    serving,
)

WAITS = {
    "ID": "e1e1e1e1-0000",
    "JobID": "train",
    "ModifyIndex": 9,
    "Namespace": "default",
    "FailedTGAllocs": {"work": {"NodesEvaluated": 1, "DimensionExhausted": {"memory": 1}}},
}
EARLIER = {"ID": "e0", "ModifyIndex": 3, "FailedTGAllocs": {"work": {"QuotaExhausted": ["old"]}}}
STUB = {"ID": "a1a1a1a1-0000", "JobID": "train", "Namespace": "default"}


def answers(queued: Any = 1, **other: Any) -> dict[str, Any]:
    """A job of one vGPU that waits for one of an empty node."""
    return {
        **cluster([node("b", device_group())]),
        "/v1/job/train": raw_job(block(count=9), wanted=2),
        "/v1/job/train/evaluations": [EARLIER, WAITS, {"ID": "e2", "ModifyIndex": 99}],
        "/v1/job/train/summary": {"Summary": {"work": {"Queued": queued}}},
        "/v1/job/train/allocations": [],
        "/v1/evaluations": [WAITS],
        "/v1/jobs": [],
        **other,
    }


def asked(name: str, given: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    """The exit status."""
    monkeypatch.delenv("NOMAD_TOKEN", raising=False)
    monkeypatch.delenv("NOMAD_NAMESPACE", raising=False)
    with serving(given) as served:
        return run(["why", name, "--address", served.address, *flags])


def test_a_job_that_waits_is_told_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How many, since which evaluation, node by node, and in Nomad's words of the newest."""
    assert asked("train", answers(), monkeypatch) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "job train, group work: 1 of 2 wait (evaluation e1e1e1e1)"
    assert out[2].startswith("  b (b-0000-0): 9 are asked for in one device block")
    assert out[-1] == '  Nomad says: Dimension "memory" exhausted on 1 nodes'


def test_machines_get_a_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same, by name."""
    assert asked("train", answers(), monkeypatch, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    (waiting,) = document["waiting"]
    assert (document["job"], waiting["queued"], waiting["group"]) == ("train", 1, "work")
    assert waiting["hindered"][0]["obstacles"][0]["kind"] == "too-many"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"queued": 0}, "waits for nothing: every allocation that it wants is placed"),
        ({"/v1/job/train": {**raw_job(), "Stop": True}}, "job train is stopped"),
    ],
)
def test_a_job_that_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    other: dict[str, Any],
    words: str,
) -> None:
    """No node is asked for nothing."""
    assert asked("train", answers(**other), monkeypatch) == 0
    assert words in capsys.readouterr().out


def test_room_that_came_since_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nomad has not looked again yet, or does not know that it should."""
    evaluation = {**WAITS, "FailedTGAllocs": {"work": {"NodesEvaluated": 1}}}
    given = {"/v1/job/train": raw_job(block()), "/v1/job/train/evaluations": [evaluation]}
    assert asked("train", answers(**given), monkeypatch) == 0
    assert "There is room now" in capsys.readouterr().out


def test_a_task_that_was_placed_and_refused_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the task's events say of the newest allocation; an older failure is over."""
    event = {"DisplayMessage": "failed to reserve device: GPU-x is unhealthy"}
    states = {"main": {"Events": [{"DisplayMessage": "Task received"}, event]}}
    failed = {**STUB, "TaskGroup": "work", "ClientStatus": "failed", "TaskStates": states}
    older = {**failed, "CreateIndex": 1, "TaskGroup": "other"}
    newer = {**STUB, "CreateIndex": 2, "TaskGroup": "other", "ClientStatus": "running"}
    given = {"/v1/job/train/allocations": [newer, older, {**failed, "NodeName": "b"}]}
    assert asked("train", answers(0, **given), monkeypatch) == 0
    out = capsys.readouterr().out
    assert "group work: allocation a1a1a1a1 on b failed, task main: failed to reserve device" in out
    assert "group other" not in out


@pytest.mark.parametrize("name", ["a1a1", "a1a1a1a1", "a1a1a1a", "e1e1e1e1-0000"])
def test_an_allocation_or_an_evaluation_leads_to_its_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """By the beginning of its id; Nomad takes whole bytes of one only."""
    given = answers()
    given["/v1/allocations"] = [{**STUB, "ClientStatus": "complete", "NodeID": "x"}]
    assert asked(name, given, monkeypatch) == 0
    assert "job train, group work" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ([], "has no job, allocation or evaluation dead: see `nomad job status`"),
        ([{"ID": "dead", "Namespace": "ml"}], "in namespace default: give --namespace ml"),
        ([{"ID": "dead2", "Namespace": "ml"}], "see `nomad job status`"),
    ],
)
def test_a_name_that_leads_nowhere(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    jobs: list[dict[str, str]],
    words: str,
) -> None:
    """Said with the namespace in which there is such a job."""
    assert asked("dead", answers(**{"/v1/jobs": jobs}), monkeypatch) == 1
    assert words in capsys.readouterr().err


def test_a_token_that_may_not_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the rule for the namespace that was asked for."""
    given = answers(**{"/v1/job/train": (403, "Permission denied")})
    assert asked("train", given, monkeypatch, "--namespace", "ml") == 1
    assert 'namespace "ml" { policy = "read" }' in capsys.readouterr().err
