# SPDX-License-Identifier: MPL-2.0
"""Placement in a cluster of three clients with different GPUs, by Nomad's own scheduler."""

from collections import Counter
from collections.abc import Iterator

import pytest
import this_run

from e2e import binaries
from e2e.cluster import TIMEOUT_S, Cluster, shares_given, started
from e2e.conftest import A100, T4
from e2e.fleets import FLEETS, VGPUS, configs
from e2e.jobs import LOOK_AT_ALL_NODES, SPREAD_OVER_NODES, affinity, constraint, device, mock_job
from e2e.waiting import wait_until

pytestmark = [pytest.mark.nomad, pytest.mark.timeout(900)]

L4 = "NVIDIA L4"
AT_LEAST_10_GIB = constraint("device.attr.vgpu_memory", ">=", "10 GiB")


@pytest.fixture(scope="module")
def three_clients() -> Iterator[Cluster]:
    """The cluster, for all tests of this module: its start takes longer than each of them."""
    root = this_run.new_folder("c")
    with started(binaries.nomad(), root, configs()) as cluster:
        yield cluster


@pytest.fixture
def cluster(three_clients: Cluster) -> Iterator[Cluster]:
    """The same, with every vGPU free again after the test."""
    yield three_clients
    three_clients.api.stop_all(TIMEOUT_S)


def test_each_client_offers_its_fleet(cluster: Cluster) -> None:
    """The servers know of every vGPU of every node, with the share that it really is."""
    for name, count in VGPUS.items():
        assert len(cluster.vgpus(name)) == count
    assert {v["vgpu_memory"] for v in cluster.vgpus("big").values()} == {10240}
    assert {v["model"] for v in cluster.vgpus("small").values()} == {L4, T4}
    assert {v["mig"] for v in cluster.vgpus("parts").values()} == {"3g.40gb", "2g.20gb", "1g.10gb"}


def test_a_share_of_ten_gib_is_at_least_ten_gib(cluster: Cluster) -> None:
    """`${device.attr.vgpu_memory} >= 10 GiB` fits the shares of "10GiB", and no smaller ones."""
    job = cluster.api.submit(mock_job("ten-gib", device(AT_LEAST_10_GIB), count=16))
    placed = cluster.running([job], 16)
    assert {a["NodeName"] for a in placed} == {"big"}
    given = shares_given(placed)
    assert len(given) == len(set(given))
    assert set(given) <= cluster.vgpus("big").keys()


@pytest.mark.parametrize("model", [A100, T4])
def test_an_affinity_chooses_among_nodes(cluster: Cluster, model: str) -> None:
    """A wish for a model is fulfilled while there are free vGPUs of it, whatever node has them.

    One task per job, for Nomad also keeps the tasks of a job apart; and with an affinity of the
    group, without which it looks at two nodes only.
    """
    wish = device(affinity("device.attr.model", model))
    jobs = [
        cluster.api.submit(mock_job(f"wish-{n}", wish, placement=LOOK_AT_ALL_NODES))
        for n in range(6)
    ]
    offered = {id_: vgpu for name in FLEETS for id_, vgpu in cluster.vgpus(name).items()}
    given = shares_given(cluster.running(jobs, 6))
    assert {offered[vgpu]["model"] for vgpu in given} == {model}


def test_a_spread_uses_every_node(cluster: Cluster) -> None:
    """A job that is spread over nodes has as many tasks on each, where each has free vGPUs."""
    job = cluster.api.submit(
        mock_job("everywhere", device(), count=12, placement=SPREAD_OVER_NODES)
    )
    placed = cluster.running([job], 12)
    assert Counter(a["NodeName"] for a in placed) == dict.fromkeys(FLEETS, 4)


def test_three_hundred_tasks_have_a_share_each(cluster: Cluster) -> None:
    """Jobs that are placed at once fill the cluster, and no share is given twice."""
    jobs = [cluster.api.submit(mock_job(f"crowd-{n}", device(), count=60)) for n in range(5)]
    placed = cluster.running(jobs, 300)
    given = shares_given(placed)
    assert len(given) == 300
    assert [vgpu for vgpu, times in Counter(given).items() if times > 1] == []
    by_node = {name: set(cluster.vgpus(name)) for name in FLEETS}
    for allocation in placed:
        assert set(shares_given([allocation])) <= by_node[allocation["NodeName"]]


def test_a_drained_node_gives_its_tasks_away(cluster: Cluster) -> None:
    """The tasks of a drained node move to vGPUs of the others, each to one of its own."""
    job = cluster.api.submit(mock_job("movers", device(), count=18, placement=SPREAD_OVER_NODES))
    before = cluster.running([job], 18)
    assert any(a["NodeName"] == "small" for a in before)
    cluster.drain("small")
    try:
        wait_until(
            "the drained node is empty",
            lambda: all(
                a["NodeName"] != "small" or a["ClientStatus"] == "complete"
                for a in cluster.allocations([job])
            ),
            TIMEOUT_S,
            seen=lambda: cluster.explain([job]),
        )
        after = cluster.running([job], 18, without={"small"})
        assert {a["NodeName"] for a in after} == {"big", "parts"}
        assert len(set(shares_given(after))) == 18
    finally:
        cluster.undrain("small")


def test_the_tasks_of_a_lost_client_are_placed_again(cluster: Cluster) -> None:
    """A client that dies loses its tasks to the others; back again, it offers what it had."""
    job = cluster.api.submit(mock_job("survivors", device(), count=18, placement=SPREAD_OVER_NODES))
    before = cluster.running([job], 18)
    assert any(a["NodeName"] == "parts" for a in before)
    offered = cluster.vgpus("parts")
    lost = cluster.clients["parts"]
    lost.kill()
    try:
        cluster.wait_for_node("parts", "down")
        after = cluster.running([job], 18, without={"parts"})
        assert {a["NodeName"] for a in after} == {"big", "small"}
        assert len(set(shares_given(after))) == 18
    finally:
        lost.launch()
        cluster.wait_for_node("parts", "ready")
    cluster.wait_until_ready()
    assert cluster.vgpus("parts").keys() == offered.keys()
