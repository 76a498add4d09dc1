# SPDX-License-Identifier: MPL-2.0
"""What an operator sees of the node: groups, vGPUs, attributes, figures and log lines."""

import re

import pytest

from e2e.agent import Agent
from e2e.conftest import A100, T4, VGPUS, every_nomad
from e2e.waiting import wait_until

pytestmark = [pytest.mark.nomad, every_nomad]

OFFICIAL_STATS = {
    "Power usage",
    "GPU utilization",
    "Memory utilization",
    "Encoder utilization",
    "Decoder utilization",
    "Temperature",
    "Memory state",
    "BAR1 buffer state",
    "ECC L1 errors",
    "ECC L2 errors",
    "ECC memory errors",
}


def test_each_model_is_a_device_group_of_vgpus(agent: Agent) -> None:
    """The node offers letmutx/gpu/<model>, with N vGPUs <uuid>-<n> for each GPU of the model."""
    groups = agent.api.device_groups()
    assert {(g.vendor, g.type, g.name) for g in groups.values()} == {
        ("letmutx", "gpu", A100),
        ("letmutx", "gpu", T4),
    }
    for name, gpus in ((A100, 2), (T4, 1)):
        assert len(groups[name].gpus) == gpus
        assert set(groups[name].healthy) == {
            f"{uuid}-{n}" for uuid in groups[name].gpus for n in range(VGPUS)
        }
        assert all(groups[name].healthy.values())


def test_attributes_carry_nomads_units(agent: Agent) -> None:
    """Attributes reach the scheduler as numbers with units, words and truths."""
    attributes = agent.api.device_groups()[A100].attributes
    expected = {
        "memory": (81920, "MiB"),
        "vgpu_memory": (5120, "MiB"),
        "power": (500, "W"),
        "cores_clock": (1410, "MHz"),
        "pci_bandwidth": (31507, "MB/s"),
        "cuda_compute_capability": (8.0, ""),
        "compute_capability": (8.0, ""),
        "driver_version": ("580.95.05", ""),
        "memory_isolation": ("none", ""),
        "sharing": ("time-slicing", ""),
        "vgpus": (VGPUS, ""),
        "instances": (2 * VGPUS, ""),
        "healthy_instances": (2 * VGPUS, ""),
        "simulated": (True, ""),
    }
    assert {name: attributes.get(name) for name in expected} == expected


def test_vgpus_know_their_place_on_the_bus(agent: Agent) -> None:
    """Every vGPU names its GPU's PCI address as the kernel spells it."""
    group = agent.api.device_groups()[A100]
    assert all(
        re.fullmatch(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.0", bus_id or "")
        for bus_id in group.bus_ids.values()
    )
    assert len(set(group.bus_ids.values())) == 2


def test_every_vgpu_has_the_figures_of_the_official_plugin(agent: Agent) -> None:
    """The node's statistics hold the eleven figures, a summary and a time for every vGPU."""
    node = agent.api.node()
    groups = wait_until("figures arrive", lambda: agent.api.device_stats(node))
    figures = {g["Name"]: g["InstanceStats"] for g in groups}
    assert {name: len(of) for name, of in figures.items()} == {A100: 2 * VGPUS, T4: VGPUS}
    for instances in figures.values():
        for stats in instances.values():
            assert set(stats["Stats"]["Attributes"]) == OFFICIAL_STATS
            assert stats["Summary"]["Unit"] == "MiB"
            assert stats["Timestamp"] > "2020"


@pytest.mark.parametrize(
    ("flag", "shown"),
    [
        ("-verbose", r"letmutx/gpu/Tesla T4[\s\S]*vgpu_memory\s+= 960 MiB"),
        ("-stats", r"Temperature\s+= \d+ C"),
    ],
)
def test_the_command_line_shows_devices(agent: Agent, flag: str, shown: str) -> None:
    """`nomad node status` prints attributes and figures, and does not panic."""
    node = agent.api.node()
    wait_until("figures arrive", lambda: agent.api.device_stats(node))
    done = agent.cli("node", "status", flag, node["ID"])
    assert done.returncode == 0, done.stderr
    assert re.search(shown, done.stdout), done.stdout
    assert "panic" not in done.stderr


def test_log_lines_keep_their_level(agent: Agent) -> None:
    """What the plugin logs arrives in the agent's log with its own level, in one line."""
    ours = re.compile(r"\[WARN\] +client\.device_mgr\.\S*nvidia-vgpu: .*simulate")
    wait_until("the log has our line", lambda: ours.search(agent.log), seen=agent.log_tail)
    assert "panic" not in agent.log
    assert "plugin exited unexpectedly" not in agent.log
