# SPDX-License-Identifier: MPL-2.0
"""`why`, `fit` and `cluster` against a real cluster: jobs that wait for every kind of reason."""

import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import doc_pages
import pytest
from doc_pages import Command
from libnvidia_ml.driver import FakeDriver

from e2e import binaries
from e2e.api import granted_ids
from e2e.cluster import TIMEOUT_S, Cluster, started
from e2e.conftest import plugin_block
from e2e.jobs import constraint, device, mock_job, staying_job
from e2e.waiting import wait_until

pytestmark = [pytest.mark.nomad, pytest.mark.timeout(900)]

FLEETS = {
    "big": 'vgpu_memory = "10GiB"\n simulate = ["a100-sxm4-80gb:2"]',
    "small": 'vgpus = 4\n group_by = "gpu"\n simulate = ["l4:2", "a10g"]\n'
    ' gpu "*A10G*" {\n vgpu_memory = "40GiB"\n }',
    "old": 'vgpus = 4\n fingerprint_period = "1s"',
}
"""A group of 16 vGPUs, two groups of 4 with an unhealthy GPU, and a card that is divided again."""

VGPU_MEMORY = "device.attr.vgpu_memory"
TEN_GIB = constraint(VGPU_MEMORY, ">=", "10 GiB")
ON_L4 = constraint("device.attr.model", "=", "NVIDIA L4")
ON_T4 = constraint("device.attr.model", "=", "Tesla T4")


class Waiting(NamedTuple):
    """A job that cannot be placed, on which node to look, and what must be said of that."""

    job: str
    node: str
    says: str
    remedy: str


def _job(name: str, *blocks: str, memory_mb: int = 10) -> str:
    return mock_job(name, "\n".join(blocks)).replace("memory = 10\n", f"memory = {memory_mb}\n")


WAITING = {
    "no-such-device": Waiting(
        _job("model", device(name="letmutx/gpu/NVIDIA B300")),
        "big",
        "no device is called letmutx/gpu/NVIDIA B300: it offers letmutx/gpu/NVIDIA A100-SXM4-80GB",
        'write device "letmutx/gpu", or one of these names in full',
    ),
    "constraint": Waiting(
        _job("small", device(constraint(VGPU_MEMORY, ">=", "40 GiB"))),
        "big",
        "${device.attr.vgpu_memory} >= 40 GiB: the largest here is 10 GiB (NVIDIA A100-SXM4-80GB)",
        "ask for at most 10 GiB",
    ),
    "too-many": Waiting(
        _job("many", device(count=17)),
        "big",
        "17 are asked for in one device block, and the largest device group here has 16"
        " (NVIDIA A100-SXM4-80GB)",
        "ask for at most 16 in one block",
    ),
    "unhealthy": Waiting(
        _job("sick", device(constraint("device.attr.model", "=", "NVIDIA A10G"))),
        "small",
        "1 is asked for, and of 1 in NVIDIA A10G/",
        "do as the reason says",
    ),
    "withheld": Waiting(
        _job("withheld", device(ON_T4, count=2)),
        "old",
        "1 withheld (held for tasks that were started when this GPU was divided or grouped",
        "wait until the tasks of the earlier division have ended, or stop them",
    ),
    "unit": Waiting(
        _job("unit", device(constraint(VGPU_MEMORY, ">=", "4"))),
        "big",
        "${device.attr.vgpu_memory} >= 4: Nomad cannot compare it with 10 GiB, because its value has no"
        " unit",
        'write "4 GiB" or "4 MiB"',
    ),
    "split": Waiting(
        _job("split", device(ON_L4, count=2)),
        "small",
        "2 are asked for and 2 are free, but in 2 device groups (1 in NVIDIA L4/",
        "ask for at most 1 in one block",
    ),
    "together": Waiting(
        _job("two", device(TEN_GIB, count=8), device(TEN_GIB, count=9)),
        "big",
        "its 2 device blocks fit one by one and not together: free are 16 in NVIDIA A100-SXM4-80GB",
        "ask for fewer",
    ),
    "resources": Waiting(
        _job("memory", device(), memory_mb=90_000_000),
        "big",
        "90000000 MB of memory are asked for and ",
        "ask for less memory, or stop tasks there",
    ),
}
"""By the kind of obstacle; `held` and `node` come and go with the cluster's state."""


class Shell:
    """The command line, pointed at the server."""

    def __init__(self, cluster: Cluster) -> None:
        """`cluster` runs."""
        address = f"http://127.0.0.1:{cluster.server.ports.http}"
        self._environment = {"PATH": os.environ["PATH"], "NOMAD_ADDR": address}

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """One command as nobody in particular; fails where it says something is wrong."""
        return subprocess.run(
            [str(binaries.plugin()), *arguments],
            env=self._environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def document(self, *arguments: str, given: str = "") -> Any:
        """What a command says to machines."""
        done = self.run(*arguments, "--json", given=given)
        assert done.stderr == ""
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, nvml: Path) -> Iterator[Cluster]:
    """Three clients: each L4 of `small` has one vGPU left, `old` is divided again."""
    root = tmp_path_factory.mktemp("w")
    driver = FakeDriver(nvml, tmp_path_factory.mktemp("d"), "t4_old")
    driver.set("gpu 0", "uuid", f"GPU-{uuid.uuid4()}")  # tasks are known by it
    driver.set("gpu 0", "memory_total_mib", 15360)
    configs = {name: plugin_block(options) for name, options in FLEETS.items()}
    with started(binaries.nomad(), root, configs, {"old": driver.environment()}) as made:
        made.api.submit(staying_job("before", device(ON_T4)))
        # Three of four do not fit beside three of four: one is left on each L4.
        made.api.submit(mock_job("holder", device(ON_L4, count=3), count=2))
        made.running(["before", "holder"], 3)
        _divide_again(made, "old", 'vgpus = 2\n fingerprint_period = "1s"')
        for waiting in WAITING.values():
            made.api.submit(waiting.job)
        for waiting in WAITING.values():
            made.api.wait_until_blocked(_name(waiting.job))
        yield made


def _divide_again(cluster: Cluster, name: str, options: str) -> None:
    """Restarts a client with other options; its tasks run on."""
    agent = cluster.clients[name]
    agent.stop()
    (agent.root / "given.hcl").write_text(plugin_block(options))
    agent.launch()

    def withheld() -> bool:
        devices = cluster.node(name)["NodeResources"]["Devices"] or []
        told = [i.get("HealthDescription") or "" for d in devices for i in d["Instances"]]
        return len(told) == 2 and any(text.startswith("held for tasks") for text in told)

    wait_until("a vGPU is withheld", withheld, TIMEOUT_S, seen=agent.log_tail)


def _needs_tasks_that_outlive_an_agent(kind: str) -> None:
    """Nomad 1.1 forgets the tasks of a client that is started again, so nothing is withheld."""
    if kind == "withheld":
        binaries.needs(binaries.nomad(), 1, 2)


def _name(job: str) -> str:
    return job.split('"')[1]


def _of_node(document: dict[str, Any], node: str) -> list[dict[str, str]]:
    """The obstacles of a node in what one task group's document says."""
    return [
        obstacle
        for hindered in document["hindered"]
        if node in [entry["name"] for entry in hindered["nodes"]]
        for obstacle in hindered["obstacles"]
    ]


@pytest.mark.parametrize("kind", WAITING)
def test_why_says_what_is_in_the_way(cluster: Cluster, kind: str) -> None:
    """A job that waits is told its reason, on the node where it is, with what would help."""
    _needs_tasks_that_outlive_an_agent(kind)
    waiting = WAITING[kind]
    name = _name(waiting.job)
    shell = Shell(cluster)
    (group,) = shell.document("why", name)["waiting"]
    (told,) = [obstacle for obstacle in _of_node(group, waiting.node) if obstacle["kind"] == kind]
    assert waiting.says in told["text"]
    assert waiting.remedy in told["remedy"]
    assert group["not_devices"] is (kind == "resources")
    for_people = shell.run("why", name)
    assert for_people.returncode == 0, for_people.stderr
    assert told["text"] in for_people.stdout
    assert told["remedy"] in for_people.stdout


@pytest.mark.parametrize("kind", WAITING)
def test_fit_says_the_same_and_submits_nothing(cluster: Cluster, kind: str) -> None:
    """The same job under another name, unsubmitted: same sentence, status 1, no job of that name."""
    _needs_tasks_that_outlive_an_agent(kind)
    waiting = WAITING[kind]
    name = f"{_name(waiting.job)}-unsubmitted"
    text = waiting.job.replace(f'"{_name(waiting.job)}"', f'"{name}"', 1)
    shell = Shell(cluster)
    (group,) = shell.document("fit", "-", given=text)["groups"]
    assert not group["placed"]
    assert group["fits_now"] == 0
    (told,) = [obstacle for obstacle in _of_node(group, waiting.node) if obstacle["kind"] == kind]
    assert waiting.says in told["text"]
    assert shell.run("fit", "-", given=text).returncode == 1
    assert name not in [job["ID"] for job in cluster.api.client.jobs.get_jobs()]


def test_fit_counts_as_the_scheduler_places(cluster: Cluster) -> None:
    """As many tasks as `fit` counts are placed, and no more; then it says who has what."""
    shell = Shell(cluster)
    text = mock_job("counted", device(TEN_GIB, count=3), count=6)
    (group,) = shell.document("fit", "-", given=text)["groups"]
    assert (group["fits_now"], group["fits_empty"]) == (5, 5)
    job = cluster.api.submit(text)
    try:
        cluster.running([job], 5)
        assert cluster.api.wait_until_blocked(job)
        (waiting,) = shell.document("why", job)["waiting"]
        assert waiting["queued"] == 1
        (told,) = _of_node(waiting, "big")
        assert told["kind"] == "held"
        assert told["text"].startswith("3 are asked for and 1 of 16 are free: counted/work (")
    finally:
        cluster.api.stop([job], TIMEOUT_S)


def test_a_drained_node_is_said_to_be(cluster: Cluster) -> None:
    """What fits on a drained node only waits for the end of the drain."""
    cluster.drain("big")
    job = cluster.api.submit(mock_job("drained", device(TEN_GIB)))
    try:
        cluster.api.wait_until_blocked(job)
        (waiting,) = Shell(cluster).document("why", job)["waiting"]
        (told,) = _of_node(waiting, "big")
        # A drain of a node without tasks is over at once, and leaves it ineligible.
        assert told["text"] in ("it is draining", "it is not eligible for placements")
        assert cluster.node("big")["ID"][:8] in told["remedy"]
    finally:
        cluster.api.stop([job], TIMEOUT_S)
        cluster.undrain("big")


def test_an_allocation_leads_to_its_job(cluster: Cluster) -> None:
    """The beginning of an allocation's id, or of an evaluation's, is as good as the job's name."""
    shell = Shell(cluster)
    allocation = cluster.allocations(["holder"])[0]
    assert shell.document("why", allocation["ID"][:8])["job"] == "holder"
    (evaluation, *_) = cluster.api.client.job.get_evaluations("model")
    assert shell.document("why", evaluation["ID"][:8])["job"] == "model"
    unknown = shell.run("why", "no-such-job")
    assert unknown.returncode == 1
    assert "has no job, allocation or evaluation no-such-job" in unknown.stderr


COMMANDS = [c for c in doc_pages.commands() if c.page.name == "cluster.md"]


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_the_commands_of_the_page_do_what_it_says(
    cluster: Cluster, command: Command, tmp_path: Path
) -> None:
    """They end well and tell of a device; a job that does not fit is status 1."""
    file = tmp_path / "train.nomad.hcl"
    file.write_text(mock_job("train", device()))
    words = [str(file) if word.endswith(".hcl") else word for word in command.words[1:]]
    done = Shell(cluster).run(*words)
    assert done.returncode == 0, done.stderr
    assert "letmutx/gpu" in done.stdout or "NVIDIA A100" in done.stdout


def test_cluster_counts_what_the_allocations_hold(cluster: Cluster) -> None:
    """Used, free, unhealthy and withheld are what nodes and allocations say, node by node."""
    job = cluster.api.submit(mock_job("several", device(TEN_GIB, count=2), count=3))
    try:
        cluster.running([job], 3)
        document = Shell(cluster).document("cluster")
        seen = {node["name"]: node for node in document["nodes"]}
        assert seen.keys() == FLEETS.keys()
        for name in FLEETS:
            _assert_true(cluster, name, seen[name])
        assert seen["big"]["largest_request"]["vgpus"] == 10
        # The one that is withheld may be just the one that the task of before has.
        assert (seen["old"]["used"] + seen["old"]["withheld"], seen["old"]["free"]) == (1, 1)
        assert seen["small"]["unhealthy"] == 1
        total = sum(node["used"] for node in seen.values())
        assert document["totals"]["used"] == total
        only = Shell(cluster).document("cluster", "--job", "several")
        assert [node["name"] for node in only["nodes"]] == ["big"]
        shown = Shell(cluster).run("cluster", "--node", "big").stdout
        assert shown.count("several/work/main") >= 3
    finally:
        cluster.api.stop([job], TIMEOUT_S)


def _assert_true(cluster: Cluster, name: str, seen: dict[str, Any]) -> None:
    """One node's figures against the node and its allocations."""
    offered = [
        instance
        for group in cluster.node(name)["NodeResources"]["Devices"]
        for instance in group["Instances"]
    ]
    here = _live_allocations(cluster, name)
    held = {id_ for allocation in here for id_ in granted_ids(allocation)}
    there = {instance["ID"] for instance in offered}
    well = {instance["ID"] for instance in offered if instance["Healthy"]}
    assert seen["total"] == len(there)
    assert seen["used"] == len(held & there)
    assert seen["free"] == len(well - held)
    tasks = [task for group in seen["groups"] for gpu in group["gpus"] for task in gpu["tasks"]]
    assert {id_ for task in tasks for id_ in task["vgpus"]} == held & there


def _live_allocations(cluster: Cluster, name: str) -> Sequence[dict[str, Any]]:
    listed = cluster.api.client.allocations.get_allocations(resources=True)
    return [a for a in listed if a["NodeName"] == name and a["ClientStatus"] == "running"]
