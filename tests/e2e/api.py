# SPDX-License-Identifier: MPL-2.0
"""What the tests ask of an agent over HTTP: its node, and jobs with what became of them."""

from collections.abc import Container, Iterable, Mapping
from typing import Any, NamedTuple

import nomad
import nomad.api.exceptions

from e2e.jobs import END_OF_ENVIRONMENT
from e2e.waiting import PATIENCE_S, wait_until

TERMINAL = ("complete", "failed", "lost")
_ENDED_JOB = "dead"


class DeviceGroup(NamedTuple):
    """A device group as the node's API shows it."""

    vendor: str
    type: str
    name: str
    healthy: Mapping[str, bool]
    """Each instance's id and whether it is healthy."""
    descriptions: Mapping[str, str]
    """Each instance's health description."""
    bus_ids: Mapping[str, str | None]
    """Each instance's PCI bus id."""
    attributes: Mapping[str, tuple[Any, str]]
    """Value and unit of each attribute."""

    @property
    def gpus(self) -> set[str]:
        """The UUIDs of its GPUs, taken from the ids of the vGPUs."""
        return {instance.rpartition("-")[0] for instance in self.healthy}


class FailedAllocationError(Exception):
    """An allocation failed while the test waited for something better."""


class Api:
    """One agent's HTTP API; any call fails with python-nomad's exceptions."""

    def __init__(self, http_port: int) -> None:
        """Connects to nothing yet."""
        self.client = nomad.Nomad(host="127.0.0.1", port=http_port, timeout=60)

    def answers(self) -> bool:
        """Whether the agent listens and knows a leader."""
        try:
            self.client.nodes.get_nodes()
        except nomad.api.exceptions.BaseNomadException:
            return False
        return True

    def ready_node(self) -> dict[str, Any] | None:
        """The agent's only node, once it is ready for raw_exec."""
        try:
            listed = self.client.nodes.get_nodes()
        except nomad.api.exceptions.BaseNomadException:
            return None  # not listening yet, or no leader yet
        if len(listed) != 1 or listed[0]["Status"] != "ready":
            return None
        node: dict[str, Any] = self.client.node.get_node(listed[0]["ID"])
        raw_exec = node["Drivers"].get("raw_exec", {})
        return node if raw_exec.get("Healthy") else None

    def node(self) -> dict[str, Any]:
        """The agent's only node, as the servers know it."""
        node: dict[str, Any] = self.client.node.get_node(self.client.nodes.get_nodes()[0]["ID"])
        return node

    def eligible(self) -> bool:
        """Whether Nomad may place tasks on the agent's only node."""
        return bool(self.node()["SchedulingEligibility"] == "eligible")

    def device_groups(self) -> dict[str, DeviceGroup]:
        """The node's device groups by name."""
        groups = (_group(raw) for raw in self.node()["NodeResources"]["Devices"] or [])
        return {group.name: group for group in groups}

    def wait_for_groups(self, count: int = 1) -> dict[str, DeviceGroup]:
        """The node's device groups by name, once there are so many."""
        what = f"the node has {count} device group(s)"

        def look() -> dict[str, DeviceGroup] | None:
            groups = self.device_groups()
            return groups if len(groups) == count else None

        return wait_until(what, look, seen=lambda: str(self.device_groups()))

    def submit(self, job_hcl: str) -> str:
        """Registers a job and returns its id."""
        job = self.client.jobs.parse(job_hcl)
        self.client.job.register_job(job["ID"], {"Job": job})
        return str(job["ID"])

    def allocations(self, job: str) -> list[dict[str, Any]]:
        """The job's allocations, in full."""
        return [
            self.client.allocation.get_allocation(stub["ID"])
            for stub in self.client.job.get_allocations(job)
        ]

    def wait_for(
        self, job: str, status: str, count: int = 1, timeout_s: float = PATIENCE_S
    ) -> list[dict[str, Any]]:
        """`count` allocations of the job in that client status; an error if one fails instead."""

        def look() -> list[dict[str, Any]] | None:
            stubs = self.client.job.get_allocations(job)
            if status != "failed" and any(s["ClientStatus"] == "failed" for s in stubs):
                raise FailedAllocationError(self.explain(job))
            there = [s["ID"] for s in stubs if s["ClientStatus"] == status]
            if len(there) != count:
                return None
            return [self.client.allocation.get_allocation(allocation) for allocation in there]

        what = f"{count} allocation(s) of {job} are {status}"
        return wait_until(what, look, timeout_s, seen=lambda: self.explain(job))

    def wait_until_blocked(self, job: str) -> dict[str, Any]:
        """What the scheduler says of the job's one task group, once it found no place for it."""

        def look() -> dict[str, Any] | None:
            for evaluation in self.client.job.get_evaluations(job):
                if evaluation["Status"] == "blocked":
                    failed = evaluation.get("FailedTGAllocs") or {}
                    return dict(next(iter(failed.values()), {"blocked": True}))
            return None

        return wait_until(f"{job} is blocked", look, seen=lambda: self.explain(job))

    def environment(self, allocation: Mapping[str, Any], task: str = "main") -> dict[str, str]:
        """The environment that the allocation's task printed."""
        lines = self.output(allocation, END_OF_ENVIRONMENT, task).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def output(self, allocation: Mapping[str, Any], until: str, task: str = "main") -> str:
        """The task's standard output, once `until` is in it: the log lags behind the task."""

        def look() -> str | None:
            path = f"alloc/logs/{task}.stdout.0"
            try:
                text = str(self.client.client.cat.read_file(allocation["ID"], path))
            except nomad.api.exceptions.BaseNomadException:
                return None
            return text if until in text else None

        return wait_until(f"{until!r} in the output of {task}", look)

    def device_stats(self, node: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The figures of each device group; none before every vGPU has some."""
        stats = self.client.client.stats.read_stats(node["ID"])
        groups = list(stats["DeviceStats"] or [])
        vgpus = [vgpu for group in groups for vgpu in group["InstanceStats"].values()]
        return groups if all((vgpu["Stats"] or {}).get("Attributes") for vgpu in vgpus) else []

    def stop(self, jobs: Iterable[str], timeout_s: float = PATIENCE_S) -> None:
        """Stops these jobs and waits until their tasks have ended."""
        stopped = set(jobs)
        for job in stopped:
            self.client.job.deregister_job(job)
        wait_until(f"{stopped} have ended", lambda: self._ended(stopped), timeout_s)

    def stop_all(self, timeout_s: float = PATIENCE_S) -> None:
        """Stops every job, so that every vGPU is free again."""
        listed = self.client.jobs.get_jobs()
        self.stop((j["ID"] for j in listed if j["Status"] != _ENDED_JOB), timeout_s)
        wait_until("all allocations have ended", self._ended, timeout_s)

    def explain(self, job: str) -> str:
        """Why the job is where it is, for a person who reads a failed test."""
        lines = []
        for allocation in self.allocations(job):
            lines.append(f"{allocation['Name']}: {allocation['ClientStatus']}")
            for task, state in (allocation.get("TaskStates") or {}).items():
                lines += [f"  {task}: {event['DisplayMessage']}" for event in state["Events"]]
        for evaluation in self.client.job.get_evaluations(job):
            lines.append(f"evaluation {evaluation['Status']}: {evaluation.get('FailedTGAllocs')}")
        return "\n".join(lines)

    def _ended(self, jobs: Container[str] | None = None) -> bool:
        """Whether no task of these jobs is left, or of any."""
        listed = self.client.allocations.get_allocations()
        return all(
            a["ClientStatus"] in TERMINAL for a in listed if jobs is None or a["JobID"] in jobs
        )


def granted_ids(allocation: Mapping[str, Any], task: str = "main") -> list[str]:
    """The vGPUs that the scheduler gave to a task."""
    devices = allocation["AllocatedResources"]["Tasks"][task]["Devices"]
    return sorted(instance for device in devices for instance in device["DeviceIDs"])


def _group(raw: Mapping[str, Any]) -> DeviceGroup:
    instances = raw["Instances"]
    return DeviceGroup(
        raw["Vendor"],
        raw["Type"],
        raw["Name"],
        {i["ID"]: i["Healthy"] for i in instances},
        {i["ID"]: i["HealthDescription"] for i in instances},
        {i["ID"]: (i["Locality"] or {}).get("PciBusID") for i in instances},
        {name: _attribute(value) for name, value in raw["Attributes"].items()},
    )


def _attribute(raw: Mapping[str, Any]) -> tuple[Any, str]:
    """Nomad's JSON leaves out every member of the value but the one that is set."""
    values = [v for key, v in raw.items() if key != "Unit" and v is not None]
    return values[0], raw["Unit"]
