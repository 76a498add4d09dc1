# SPDX-License-Identifier: MPL-2.0
"""One Nomad server and several clients on loopback, each client with a fleet of its own."""

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nomad.api.exceptions

from e2e.agent import Agent, AgentExitedError
from e2e.api import Api, granted_ids
from e2e.waiting import wait_until

TIMEOUT_S = 180.0
"""How long anything may take on a machine that is busy with other things."""

LOOPBACK = """
bind_addr = "127.0.0.1"

advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}
"""

# A client counts as lost when no heartbeat came for its time to live and this grace: no less,
# or a client that only has to wait for its turn on the processor would be taken for lost.
SERVER = """
server {
  enabled          = true
  bootstrap_expect = 1
  heartbeat_grace  = "15s"
}
"""

CLIENT = """
name = "{name}"

client {{
  enabled           = true
  servers           = ["127.0.0.1:{server_rpc}"]
  network_interface = "lo"
}}
"""

Allocation = Mapping[str, Any]


class Cluster:
    """The agents, and what is asked of all of them together."""

    def __init__(self, server: Agent, clients: Mapping[str, Agent]) -> None:
        """`clients` by the name of their node."""
        self.server = server
        self.clients = clients

    @property
    def api(self) -> Api:
        """The server's."""
        return self.server.api

    def node(self, name: str) -> dict[str, Any]:
        """A node by its name, in full."""
        (stub,) = (n for n in self.api.client.nodes.get_nodes() if n["Name"] == name)
        node: dict[str, Any] = self.api.client.node.get_node(stub["ID"])
        return node

    def vgpus(self, name: str) -> dict[str, dict[str, Any]]:
        """The vGPUs of a node: each id with its group's attributes, as plain values."""
        return {
            instance["ID"]: {
                "group": device["Name"],
                **{key: _plain(value) for key, value in device["Attributes"].items()},
            }
            for device in self.node(name)["NodeResources"]["Devices"] or []
            for instance in device["Instances"]
        }

    def allocations(self, jobs: Sequence[str]) -> list[Allocation]:
        """The allocations of these jobs, with their resources; those that ended too."""
        listed = self.api.client.allocations.get_allocations(resources=True)
        return [a for a in listed if a["JobID"] in jobs]

    def running(
        self, jobs: Sequence[str], count: int, without: Container[str] = ()
    ) -> list[Allocation]:
        """The `count` running allocations of these jobs, once there are as many.

        None of them counts on the nodes `without`: a node is down, or drained, for a while before
        the scheduler says of its allocations that they no longer run.
        """

        def look() -> list[Allocation] | None:
            alive = [
                a
                for a in self.allocations(jobs)
                if a["ClientStatus"] == "running"
                and a["DesiredStatus"] == "run"
                and a["NodeName"] not in without
            ]
            return alive if len(alive) == count else None

        what = f"{count} allocations of {', '.join(jobs)} run"
        return wait_until(what, look, TIMEOUT_S, seen=lambda: self.explain(jobs))

    def explain(self, jobs: Sequence[str]) -> str:
        """How far these jobs have come, for a person who reads a failed test."""
        found = self.allocations(jobs)
        lines = [str(Counter((a["NodeName"], a["ClientStatus"]) for a in found))]
        for job in jobs:
            evaluations = self.api.client.job.get_evaluations(job)
            lines += [
                f"{job}: {e['FailedTGAllocs']}" for e in evaluations if e["Status"] == "blocked"
            ]
        failed = [a for a in found if a["ClientStatus"] == "failed"]
        lines += [str(a["TaskStates"]) for a in failed[:3]]
        return "\n".join(lines)

    def drain(self, name: str) -> None:
        """Tells a node to give all its tasks away; waits for nothing."""
        node = self.node(name)["ID"]
        minute_ns = 60 * 10**9
        self.api.client.node.drain_node_with_spec(node, {"Deadline": 5 * minute_ns})

    def undrain(self, name: str) -> None:
        """Lets a node have tasks again."""
        self.api.client.node.drain_node_with_spec(self.node(name)["ID"], None, mark_eligible=True)

    def wait_for_node(self, name: str, status: str) -> None:
        """Waits until the server has this opinion of a node."""
        wait_until(
            f"node {name} is {status}", lambda: self.node(name)["Status"] == status, TIMEOUT_S
        )

    def wait_until_ready(self) -> None:
        """Waits until every client is registered with its devices and the mock driver."""

        def ready() -> bool:
            for agent in (self.server, *self.clients.values()):
                if not agent.running():
                    raise AgentExitedError(agent.log_tail())
            try:
                return all(self._ready(name) for name in self.clients)
            except (nomad.api.exceptions.BaseNomadException, ValueError):
                return False  # no leader yet, or not all have registered

        wait_until("all clients are ready", ready, TIMEOUT_S, seen=self._log_tails)

    def _ready(self, name: str) -> bool:
        node = self.node(name)
        driver = node["Drivers"].get("mock_driver", {})
        devices = node["NodeResources"]["Devices"]
        return bool(node["Status"] == "ready" and driver.get("Healthy") and devices)

    def _log_tails(self) -> str:
        return "\n\n".join(a.log_tail() for a in (self.server, *self.clients.values()))


@contextmanager
def started(
    binary: Path,
    root: Path,
    fleets: Mapping[str, str],
    environments: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[Cluster]:
    """A cluster whose clients have these configurations, by name; closed and checked at the end.

    `environments` are those of clients that need one, by name.
    """
    with ExitStack() as agents:
        server = Agent(binary, root / "s", "", dev=False, roles=LOOPBACK + SERVER)
        clients = {
            name: Agent(
                binary,
                root / f"c{number}",
                config,
                environment=(environments or {}).get(name),
                dev=False,
                roles=LOOPBACK + CLIENT.format(name=name, server_rpc=server.ports.rpc),
            )
            for number, (name, config) in enumerate(fleets.items())
        }
        cluster = Cluster(server, clients)
        # Clients end before the server, and their tasks before both.
        for agent in (server, *clients.values()):
            agents.callback(agent.close)
            agent.launch()
        agents.callback(server.api.stop_all, TIMEOUT_S)
        cluster.wait_until_ready()
        yield cluster


def shares_given(allocations: Sequence[Allocation]) -> list[str]:
    """The vGPUs that these allocations hold, each as often as it is held."""
    return [vgpu for allocation in allocations for vgpu in granted_ids(allocation)]


def _plain(raw: Mapping[str, Any]) -> Any:
    return next(value for key, value in raw.items() if key != "Unit" and value is not None)
