# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu why`: why a job waits, node by node."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import click

from nomad_nvidia_vgpu.cli.cluster.connection import Connection, NotThereError, read_jobs
from nomad_nvidia_vgpu.cli.cluster.explanation import (
    Explanation,
    document,
    explain,
    noted,
    sentences,
)
from nomad_nvidia_vgpu.cli.cluster.jobs import Job, job_of
from nomad_nvidia_vgpu.cli.cluster.model import ID_LENGTH, Fleet, read_fleet
from nomad_nvidia_vgpu.cli.cluster.options import connected, nomad_options
from nomad_nvidia_vgpu.cli.tables import style

_ID = re.compile(r"[0-9a-fA-F]{4,8}(-[0-9a-fA-F-]{0,27})?")
_FAILED = "failed"
_KINDS = ("allocations", "evaluations")


class Found(NamedTuple):
    """A job, and what Nomad says of it."""

    job: Job
    raw: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Any]]
    """By task group: what its newest evaluation says of a placement that failed."""
    evaluation: str
    queued: Mapping[str, int]
    """By task group: how many allocations wait."""


@click.command(short_help="Show why a job waits: node by node, and what would help.")
@click.argument("name", metavar="JOB|ALLOCATION|EVALUATION")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@nomad_options
def why(*, name: str, as_json: bool, **flags: Any) -> int:
    """Show why a job, or the job of an allocation or an evaluation, waits.

    Asks Nomad's API and judges each node as the scheduler does: which device block finds nothing,
    for which constraint, and who holds what is taken. Needs no GPU and no root.
    """
    with contextlib.closing(connected(flags)) as connection:
        found = find(connection, name)
        waiting = [group for group in found.job.groups if found.queued.get(group.name)]
        fleet = read_fleet(connection) if waiting else Fleet(())
        failures = list(failed_allocations(connection, found.job))
    told = [explain(found.job, group, fleet, found.metrics.get(group.name)) for group in waiting]
    if as_json:
        style.show_json(
            {
                "job": found.job.id,
                "namespace": found.job.namespace,
                "evaluation": found.evaluation or None,
                "waiting": [
                    {"queued": found.queued[explanation.group.name], **document(explanation)}
                    for explanation in told
                ],
                "failed_allocations": failures,
                "notes": list(fleet.notes),
            }
        )
        return 0
    for sentence in (*_told(found, told), *failures):
        style.say(sentence)
    for note in noted(fleet.notes):
        style.note(note)
    return 0


def find(connection: Connection, name: str) -> Found:
    """What Nomad says of a job of that id, or of the job of such an allocation or evaluation."""
    namespace = connection.namespace
    evaluation = None
    try:
        raw = _job(connection, name, namespace)
    except NotThereError:
        stub = _by_id(connection, name)
        if stub is None:
            raise NotThereError(_nothing(connection, name)) from None
        namespace = str(stub.get("Namespace") or namespace)
        raw = _job(connection, str(stub["JobID"]), namespace)
        evaluation = stub if "FailedTGAllocs" in stub else None
    job = job_of(raw, namespace)
    path = f"/v1/job/{quote(job.id, safe='')}"
    query = {"namespace": namespace}
    newest = evaluation or _newest(
        connection.get(f"{path}/evaluations", read_jobs(namespace), **query)
    )
    summary = connection.get(f"{path}/summary", read_jobs(namespace), **query)
    queued = {
        group: int(counts.get("Queued") or 0)
        for group, counts in (summary.get("Summary") or {}).items()
    }
    return Found(job, raw, newest.get("FailedTGAllocs") or {}, str(newest.get("ID") or ""), queued)


def _job(connection: Connection, job: str, namespace: str) -> Mapping[str, Any]:
    path = f"/v1/job/{quote(job, safe='')}"
    found: Mapping[str, Any] = connection.get(path, read_jobs(namespace), namespace=namespace)
    return found


def _by_id(connection: Connection, text: str) -> Mapping[str, Any] | None:
    """The only allocation or evaluation whose id begins so."""
    if not _ID.fullmatch(text):
        return None
    prefix = text if len(text.replace("-", "")) % 2 == 0 else text[:-1]  # whole bytes, for Nomad
    # Nomad 1.1 lists evaluations of one namespace only.
    for namespace, kind in itertools.product(("*", connection.namespace), _KINDS):
        query = {"prefix": prefix, "namespace": namespace}
        listed = connection.get(f"/v1/{kind}", read_jobs(namespace), **query)
        found: list[Mapping[str, Any]] = [entry for entry in listed if entry["ID"].startswith(text)]
        if len(found) == 1:
            return found[0]
    return None


def _nothing(connection: Connection, name: str) -> str:
    """The sentence on a name that leads nowhere, and where such a job is if it is elsewhere."""
    listed = connection.get("/v1/jobs", read_jobs("*"), prefix=name, namespace="*")
    elsewhere = sorted(
        {str(entry.get("Namespace") or entry.get("JobSummary", {}).get("Namespace")) for entry in listed
         if entry.get("ID") == name}
    )  # fmt: skip
    where = f"Nomad at {connection.shown} has no job, allocation or evaluation {name}"
    if elsewhere:
        return f"{where} in namespace {connection.namespace}: give --namespace {elsewhere[0]}"
    return f"{where}: see `nomad job status`"


def _newest(evaluations: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The last evaluation that could not place something."""
    failed = [evaluation for evaluation in evaluations if evaluation.get("FailedTGAllocs")]
    return max(failed, key=lambda entry: int(entry.get("ModifyIndex") or 0), default={})


def failed_allocations(connection: Connection, job: Job) -> Iterator[str]:
    """A sentence for the newest failed allocation of each group: placed, and then refused."""
    path = f"/v1/job/{quote(job.id, safe='')}/allocations"
    listed = connection.get(path, read_jobs(job.namespace), namespace=job.namespace)
    newest: dict[str, Mapping[str, Any]] = {}
    for stub in sorted(listed, key=lambda entry: int(entry.get("CreateIndex") or 0)):
        newest[str(stub.get("TaskGroup"))] = stub
    for group, stub in newest.items():
        if stub.get("ClientStatus") != _FAILED:
            continue
        for task, state in (stub.get("TaskStates") or {}).items():
            said = [event.get("DisplayMessage") for event in state.get("Events") or ()]
            failing = [text for text in said if text and "fail" in text.lower()]
            if failing:
                where = stub.get("NodeName") or str(stub.get("NodeID"))[:ID_LENGTH]
                alloc = str(stub["ID"])[:ID_LENGTH]
                yield f"group {group}: allocation {alloc} on {where} failed, task {task}: {failing[0]}"


def _told(found: Found, told: Sequence[Explanation]) -> Iterator[str]:
    job = found.job
    if found.raw.get("Stop"):
        yield f"job {job.id} is stopped"
        return
    if not told:
        yield f"job {job.id} waits for nothing: every allocation that it wants is placed"
        return
    for explanation in told:
        group = explanation.group
        evaluation = f" (evaluation {found.evaluation[:ID_LENGTH]})" if found.evaluation else ""
        number = found.queued[group.name]
        yield f"job {job.id}, group {group.name}: {number} of {group.wanted} wait{evaluation}"
        yield from sentences(explanation)
        if explanation.rooms and not explanation.words:
            yield f"  There is room now: Nomad places it at its next look, or `nomad job eval {job.id}`"
