# SPDX-License-Identifier: MPL-2.0
"""Asks a Nomad agent's HTTP API about its node, as Nomad's own command line is told to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from nomad_nvidia_vgpu.cli.agent.config import ENABLE_CLIENT
from nomad_nvidia_vgpu.cli.cluster.connection import (
    DEFAULT_ADDRESS,
    READ_NODES,
    Connection,
    NomadError,
    NotThereError,
    RefusedError,
    TlsError,
    without_login,
)

_TIMEOUT_S = 5.0
_READ_AGENT = 'agent { policy = "read" }'
_OR_FIX = ", or fix tls in the agent's configuration"


class ApiGroup(NamedTuple):
    """A device group as Nomad knows it."""

    vendor: str
    type: str
    name: str
    instances: Mapping[str, str]
    """Id to why it is unhealthy; empty: it is healthy."""

    @property
    def device(self) -> str:
        """By which a job can ask for it."""
        return f"{self.vendor}/{self.type}/{self.name}"


class NomadLook(NamedTuple):
    """What the API says of this node."""

    address: str
    problem: str = ""
    """Why it says nothing, in half a sentence."""
    refused: bool = False
    """Whether nobody listens there."""
    version: str | None = None
    node_id: str | None = None
    groups: tuple[ApiGroup, ...] | None = None
    """None: it does not say."""
    remedy: str = ""
    """What to do about the problem, if that is known."""
    client: bool | None = None
    """Whether the agent that was asked is a client; None: it does not say."""
    early: bool = False
    """Whether it may be that the agent has only just started."""
    docker_runtimes: tuple[str, ...] | None = None
    """The runtimes that Nomad's docker driver has found; None: it has found no docker, or does not say."""
    allocations: Mapping[str, str] | None = None
    """The node's allocations, each with how its client has it; None: it does not say."""
    all_allocations: bool = False
    """Whether those are all: with ACLs there may be others, which this token may not see."""


class _UnknownNodeError(NomadError):
    """The agent does not know this node; that may change by itself soon, if it is `early`."""

    def __init__(self, half: str, remedy: str = "", *, early: bool = False) -> None:
        super().__init__(half, remedy)
        self.early = early


def look_at_nomad(environment: Mapping[str, str], name: str) -> NomadLook:
    """What the agent that `environment` leads to says of its own node, or else the one of `name`.

    The variables are those of Nomad's command line. Takes some seconds at most for each of four
    requests.
    """
    shown = without_login(environment.get("NOMAD_ADDR") or DEFAULT_ADDRESS)
    version = client = None
    try:
        api = Connection(environment, _TIMEOUT_S)
        try:
            agent = api.get("/v1/agent/self", _READ_AGENT)
        except RefusedError:
            raise
        except NomadError:
            agent = {}  # not everybody may ask an agent about itself
        version = _at(agent, "config", "Version", "Version")
        client = _at(agent, "config", "Client", "Enabled")
        node_id = _at(agent, "stats", "client", "node_id") or _listed(api, name, client=client)
        node = _node(api, str(node_id))
    except NomadError as error:
        refused = isinstance(error, RefusedError)
        return NomadLook(
            shown,
            error.half,
            refused,
            version,
            remedy=error.problem.remedy + (_OR_FIX if isinstance(error, TlsError) else ""),
            client=client,
            early=refused or getattr(error, "early", False),
        )
    devices = _at(node, "NodeResources", "Devices") or []
    return NomadLook(
        shown,
        version=version or _at(node, "Attributes", "nomad.version"),
        node_id=node_id,
        groups=tuple(_group(raw) for raw in devices if isinstance(raw, dict)),
        client=client,
        allocations=_allocations(api, str(node_id)),
        all_allocations=_at(agent, "config", "ACL", "Enabled") is False,
        docker_runtimes=_runtimes(_at(node, "Attributes", "driver.docker.runtimes")),
    )


def _node(api: Connection, node_id: str) -> Any:
    try:
        return api.get(f"/v1/node/{quote(node_id)}", READ_NODES)
    except NotThereError as error:
        raise _UnknownNodeError(
            f"does not know this node yet ({node_id}), because the agent has just started",
            remedy="look again in some seconds; if it stays so, see the agent's log",
            early=True,
        ) from error


def _allocations(api: Connection, node_id: str) -> Mapping[str, str] | None:
    """The allocations of all namespaces that the token may see; None if it may not ask."""
    try:
        listed = api.get(f"/v1/node/{quote(node_id)}/allocations", READ_NODES)
    except NomadError:
        return None
    known = (
        [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else None
    )
    if known is None:
        return None
    return {str(allocation.get("ID")): str(allocation.get("ClientStatus")) for allocation in known}


def _listed(api: Connection, name: str, *, client: bool | None) -> str:
    """The id of the node of this name, asked of an agent that is a client or not."""
    nodes = api.get("/v1/nodes", READ_NODES)
    found = [n["ID"] for n in nodes if isinstance(n, dict) and n.get("Name") == name and "ID" in n]
    if not found and client is False:
        raise _UnknownNodeError(
            f"is of an agent that is no client, and knows no node of the name {name}",
            remedy=f"{ENABLE_CLIENT} in its configuration and restart it, or set NOMAD_ADDR to"
            " this node's agent",
        )
    if len(found) != 1:
        raise _UnknownNodeError(
            f"knows {len(found) or 'no'} node of the name {name}", early=not found
        )
    return str(found[0])


def _group(raw: Mapping[str, Any]) -> ApiGroup:
    instances = {
        str(instance.get("ID")): ""
        if instance.get("Healthy")
        else str(instance.get("HealthDescription") or "without a word")
        for instance in raw.get("Instances") or []
    }
    vendor, kind, name = (str(raw.get(part, "")) for part in ("Vendor", "Type", "Name"))
    return ApiGroup(vendor, kind, name, instances)


def _runtimes(attribute: object) -> tuple[str, ...] | None:
    return tuple(attribute.split(",")) if isinstance(attribute, str) and attribute else None


def _at(document: Any, *path: str) -> Any:
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document
