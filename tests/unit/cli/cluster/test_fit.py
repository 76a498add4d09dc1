# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu fit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nomad_nvidia_vgpu.cli.main import run
from unit.cli.cluster.made_cluster import (
    Served,
    block,
    cluster,
    device_group,
    node,
    raw_job,
    serving,
)

FAILED = {"work": {"NodesEvaluated": 1}}


@pytest.fixture(autouse=True)
def nobodys_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of whoever runs the tests are left out."""
    for name in ("NOMAD_TOKEN", "NOMAD_NAMESPACE", "NOMAD_REGION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def jobfile(tmp_path: Path) -> Path:
    """Gives a job; what is in it is Nomad's business."""
    path = tmp_path / "train.nomad.hcl"
    path.write_text('job "train" {}')
    return path


def fitted(jobfile: Path, count: int, failed: Any, *flags: str, **other: Any) -> tuple[int, Served]:
    """The exit status for a job of `count` vGPUs at once on a node with four, and the server."""
    answers = {
        **cluster([node("b", device_group())]),
        "/v1/jobs/parse": raw_job(block(count=count)),
        "/v1/job/train/plan": {"FailedTGAllocs": failed},
        **other,
    }
    with serving(answers) as served:
        return run(["fit", str(jobfile), "--address", served.address, *flags]), served


def test_a_job_that_fits(jobfile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where, how often now, and how often on an empty cluster; planned and not submitted."""
    status, served = fitted(jobfile, 2, None)
    assert status == 0
    assert capsys.readouterr().out.splitlines() == [
        "job train, group work: its allocation fits now",
        "  the cluster has room for 2 now, and for 2 when empty",
        "  asks for 2 of letmutx/gpu for task main",
        "  b (b-0000-0): fits 2 times now, 2 times when empty",
    ]
    posted = [(asked.path, asked.body) for asked in served.asked if asked.method == "POST"]
    assert [path for path, _ in posted] == ["/v1/jobs/parse", "/v1/job/train/plan"]
    assert posted[0][1]["JobHCL"] == 'job "train" {}'
    assert posted[1][1]["Job"]["Namespace"] == "default"


def test_a_job_that_does_not_fit(jobfile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1, and what is in the way."""
    status, _ = fitted(jobfile, 9, FAILED, "--json")
    assert status == 1
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert (group["placed"], group["fits_now"], group["fits_empty"]) == (False, 0, 0)
    assert group["hindered"][0]["obstacles"][0]["kind"] == "too-many"


def test_variables_are_handed_on(jobfile: Path, tmp_path: Path) -> None:
    """From files and from flags, the flags last, so that they win."""
    file = tmp_path / "vars.hcl"
    file.write_text('gpus = "1"')
    flags = ("--var-file", str(file), "--var", "name=a b", "--var", 'list=["x"]')
    _, served = fitted(jobfile, 1, None, *flags)
    assert served.asked[0].body["Variables"] == 'gpus = "1"\nname = "a b"\nlist = ["x"]'


def test_a_variable_without_a_value_is_refused(
    jobfile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, as wrong usage."""
    assert fitted(jobfile, 1, None, "--var", "name")[0] == 2
    assert "NAME=VALUE, got name" in capsys.readouterr().err


def test_a_job_of_json_is_not_parsed(tmp_path: Path) -> None:
    """As `nomad job run -json` takes it, with and without the wrapping."""
    path = tmp_path / "job.json"
    for document in (raw_job(block()), {"Job": raw_job(block())}):
        path.write_text(json.dumps(document))
        status, served = fitted(path, 1, None)
        assert status == 0
        assert "/v1/jobs/parse" not in [asked.path for asked in served.asked]


@pytest.mark.parametrize(
    ("text", "other", "words"),
    [
        ("{", {}, "the job is no JSON"),
        ("job", {"/v1/jobs/parse": (400, "input.hcl:1,4: bad")}, "input.hcl:1,4: bad"),
        (
            "job",
            {"/v1/job/train/plan": (403, "Permission denied")},
            'namespace "default" { policy = "write" }',
        ),
    ],
)
def test_what_nomad_does_not_take_is_said(
    jobfile: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    other: dict[str, Any],
    words: str,
) -> None:
    """In its own words, or with the rule that the token lacks."""
    jobfile.write_text(text)
    assert fitted(jobfile, 1, None, **other)[0] == 1
    assert words in capsys.readouterr().err
