# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu fit`: where a job would go that has not been submitted."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import click

from nomad_nvidia_vgpu.cli.cluster.connection import Connection, NomadError, submit_jobs
from nomad_nvidia_vgpu.cli.cluster.explanation import (
    Explanation,
    document,
    explain,
    noted,
    sentences,
)
from nomad_nvidia_vgpu.cli.cluster.jobs import job_of
from nomad_nvidia_vgpu.cli.cluster.model import read_fleet
from nomad_nvidia_vgpu.cli.cluster.options import connected, nomad_options
from nomad_nvidia_vgpu.cli.tables import style

_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True)


@click.command(short_help="Show where a job would fit, without submitting it.")
@click.argument("jobfile", type=_FILE, metavar="JOBFILE")
@click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="A job's variable.")
@click.option("--var-file", "files", type=_FILE, multiple=True, help="A file of variables.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@nomad_options
def fit(
    *,
    jobfile: str,
    variables: Sequence[str],
    files: Sequence[str],
    as_json: bool,
    **flags: Any,
) -> int:
    """Show where the job of JOBFILE (- is standard input) would fit, and submit nothing.

    Nomad parses and plans it; this program counts how often each task group fits, on which nodes,
    now and on an empty cluster. Exit status 1 when it does not fit now.
    """
    given = "\n".join([*map(_text_of, files), *map(_assigned, variables)])
    with contextlib.closing(connected(flags)) as connection:
        raw = parsed_job(connection, _text_of(jobfile), given)
        job = job_of(raw, connection.namespace)
        failed = planned(connection, raw, job.id, job.namespace)
        fleet = read_fleet(connection)
    told = [explain(job, group, fleet, failed.get(group.name)) for group in job.groups]
    if as_json:
        groups = [
            {"placed": explanation.group.name not in failed, **document(explanation)}
            for explanation in told
        ]
        style.show_json({"job": job.id, "groups": groups, "notes": list(fleet.notes)})
    else:
        for sentence in _told(job.id, told, failed):
            style.say(sentence)
        for note in noted(fleet.notes):
            style.note(note)
    return int(bool(failed))


def parsed_job(connection: Connection, text: str, variables: str = "") -> Mapping[str, Any]:
    """A job as Nomad's parser makes it of a file; of JSON, as it stands."""
    if text.lstrip().startswith("{"):
        try:
            read = json.loads(text)
        except ValueError as error:
            raise NomadError(f"the job is no JSON ({error}): see `nomad job validate`") from error
        found: Mapping[str, Any] = read.get("Job") or read
        return found
    body = {"JobHCL": text, "Canonicalize": True, "Variables": variables}
    namespace = connection.namespace
    job: Mapping[str, Any] = connection.post(
        "/v1/jobs/parse", body, submit_jobs(namespace), namespace=namespace
    )
    return job


def planned(
    connection: Connection, raw: Mapping[str, Any], job: str, namespace: str
) -> Mapping[str, Mapping[str, Any]]:
    """By task group: what Nomad's scheduler says of those that it could not place now."""
    body = {"Job": {**raw, "Namespace": namespace}, "Diff": False, "PolicyOverride": False}
    path = f"/v1/job/{quote(job, safe='')}/plan"
    answer = connection.post(path, body, submit_jobs(namespace), namespace=namespace)
    return answer.get("FailedTGAllocs") or {}


def _text_of(path: str) -> str:
    with click.open_file(path, encoding="utf-8", errors="replace") as file:
        return str(file.read())


def _assigned(variable: str) -> str:
    """`NAME=VALUE` as a line of a file of variables."""
    name, equals, value = variable.partition("=")
    if not equals:
        raise click.BadParameter(f"must be NAME=VALUE, got {variable}", param_hint="--var")
    return f"{name} = {value if value[:1] in ('[', '{') else json.dumps(value)}"


def _told(
    job: str, told: Sequence[Explanation], failed: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    for explanation in told:
        group = explanation.group
        placed = group.name not in failed
        yield f"job {job}, group {group.name}: {_fits(group.wanted, placed=placed)} now"
        if group.requests:
            yield (
                f"  the cluster has room for {explanation.now} now,"
                f" and for {explanation.empty} when empty"
            )
        yield from sentences(explanation)


def _fits(wanted: int, *, placed: bool) -> str:
    if wanted == 1:
        return f"its allocation {'fits' if placed else 'does not fit'}"
    return f"{'' if placed else 'not '}all {wanted} allocations fit"
