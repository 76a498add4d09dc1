# SPDX-License-Identifier: MPL-2.0
"""Nodes, jobs and allocations as Nomad's API shows them, and a server of them on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from nomad_nvidia_vgpu.cli.cluster.connection import Connection
from nomad_nvidia_vgpu.cli.cluster.jobs import Job, job_of
from nomad_nvidia_vgpu.cli.cluster.model import Fleet, read_fleet

NO_ACLS = (400, "ACL support disabled")
Answers = Mapping[str, Any]


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class Served:
    """A server that runs, and what it was asked."""

    def __init__(self, address: str) -> None:
        """`address` is where it listens."""
        self.address = address
        self.asked: list[Asked] = []
        self._made: list[Connection] = []

    def connection(self, **environment: str) -> Connection:
        """A connection to it, closed with the server."""
        made = Connection({"NOMAD_ADDR": self.address, **environment})
        self._made.append(made)
        return made

    def close(self) -> None:
        """Ends the connections."""
        for made in self._made:
            made.close()


def attribute(value: str | float | bool, unit: str = "") -> dict[str, Any]:  # noqa: FBT001
    """An attribute of a device group."""
    kinds = {str: "String", bool: "Bool", int: "Int", float: "Float"}
    return {kinds[type(value)]: value, "Unit": unit}


def device_group(  # noqa: PLR0913  each has a default
    model: str = "NVIDIA L4",
    *,
    gpus: int = 1,
    vgpus: int = 4,
    memory_mib: int = 5120,
    unhealthy: Mapping[str, str] | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """A group of GPUs; its ids are `GPU-<last word of the model>-<gpu>-<vgpu>`."""
    stem = model.rsplit(maxsplit=1)[-1].lower()
    ids = [f"GPU-{stem}-{g}-{v}" for g in range(gpus) for v in range(vgpus)]
    bad = unhealthy or {}
    return {
        "Vendor": "letmutx",
        "Type": "gpu",
        "Name": name or model,
        "Attributes": {
            "vgpu_memory": attribute(memory_mib, "MiB"),
            "vgpus": attribute(vgpus),
            "model": attribute(model),
        },
        "Instances": [
            {
                "ID": id_,
                "Healthy": id_ not in bad,
                "HealthDescription": bad.get(id_, ""),
                "Locality": {"PciBusID": f"0000:0{id_.split('-')[2]}:00.0"},
            }
            for id_ in ids
        ],
    }


def node(name: str, *groups: dict[str, Any], **other: Any) -> dict[str, Any]:
    """A client that is ready."""
    return {
        "ID": f"{name}-0000-0000",
        "Name": name,
        "Status": "ready",
        "SchedulingEligibility": "eligible",
        "Drain": False,
        "Datacenter": "dc1",
        "Drivers": {"docker": {"Detected": True, "Healthy": True}},
        "NodeResources": {
            "Devices": list(groups) or None,
            "Cpu": {"CpuShares": 4000},
            "Memory": {"MemoryMB": 8000},
        },
        "ReservedResources": {"Cpu": {"CpuShares": 0}, "Memory": {"MemoryMB": 0}},
        **other,
    }


def allocation(
    name: str, on: str, device: str, *ids: str, job: str = "other", **other: Any
) -> dict[str, Any]:
    """One that runs on a node and holds some vGPUs."""
    vendor, kind, group = f"letmutx/gpu/{device}".split("/", 2)
    devices = [{"Vendor": vendor, "Type": kind, "Name": group, "DeviceIDs": list(ids)}]
    task = {
        "Devices": devices if ids else None,
        "Cpu": {"CpuShares": 100},
        "Memory": {"MemoryMB": 300},
    }
    return {
        "ID": f"{name}-0000-0000",
        "NodeID": f"{on}-0000-0000",
        "JobID": job,
        "Namespace": "default",
        "TaskGroup": "work",
        "ClientStatus": "running",
        "AllocatedResources": {"Tasks": {"main": task}},
        **other,
    }


def block(name: str = "letmutx/gpu", count: int = 1, *constraints: str) -> dict[str, Any]:
    """A device block; a constraint is `left operator right`."""
    parts = [constraint.split(" ", 2) for constraint in constraints]
    return {
        "Name": name,
        "Count": count,
        "Constraints": [
            {"LTarget": left, "Operand": operand, "RTarget": right}
            for left, operand, right in parts
        ],
    }


def raw_job(*blocks: dict[str, Any], wanted: int = 1, **other: Any) -> dict[str, Any]:
    """A job of one group of one task with these device blocks."""
    task = {
        "Name": "main",
        "Driver": "docker",
        "Resources": {"CPU": 100, "MemoryMB": 300, "Devices": list(blocks) or None},
    }
    group = {"Name": "work", "Count": wanted, "Tasks": [task]}
    return {"ID": "train", "Datacenters": ["dc*"], "TaskGroups": [group], **other}


def job(*blocks: dict[str, Any], wanted: int = 1, **other: Any) -> Job:
    """The same, as it is read."""
    return job_of(raw_job(*blocks, wanted=wanted, **other), "default")


def fleet(nodes: list[dict[str, Any]], allocations: list[dict[str, Any]] | None = None) -> Fleet:
    """What is read of such a cluster."""
    with serving(cluster(nodes, allocations)) as served:
        return read_fleet(served.connection())


def cluster(
    nodes: list[dict[str, Any]], allocations: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The answers of such a cluster, without access control."""
    return {
        "/v1/nodes": nodes,
        "/v1/allocations": allocations or [],
        "/v1/acl/token/self": NO_ACLS,
    }


@contextmanager
def serving(answers: Answers) -> Iterator[Served]:
    """A server that answers so: a document, bytes, or a status with a text; lists in pages."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            served.asked.append(
                Asked(
                    self.command,
                    parts.path,
                    query,
                    dict(self.headers),
                    json.loads(body) if body else None,
                )
            )
            answer = answers.get(parts.path, (404, "not found"))
            status, said = answer if isinstance(answer, tuple) else (200, answer)
            next_page = ""
            if isinstance(said, list):
                said, next_page = _page(said, query)
            raw = said if isinstance(said, bytes) else json.dumps(said).encode()
            if isinstance(said, str):
                raw = said.encode()
            self.send_response(status)
            if next_page:
                self.send_header("X-Nomad-Nexttoken", next_page)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_GET  # noqa: N815  the library's name

        def log_message(self, *_args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Served(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield served
    finally:
        served.close()
        server.shutdown()
        thread.join()
        server.server_close()


def _page(listed: list[Any], query: Mapping[str, str]) -> tuple[list[Any], str]:
    prefix = query.get("prefix")
    if prefix is not None:
        listed = [entry for entry in listed if entry["ID"].startswith(prefix)]
    if "per_page" not in query:
        return listed, ""
    first = next((n for n, entry in enumerate(listed) if entry["ID"] == query.get("next_token")), 0)
    last = first + int(query["per_page"])
    return listed[first:last], listed[last]["ID"] if last < len(listed) else ""
