# SPDX-License-Identifier: MPL-2.0
"""Nomad 1.9, the last that starts every file in plugin_dir, configured or not."""

import pytest

from e2e import binaries
from e2e.api import granted_ids
from e2e.conftest import StartAgent, plugin_block
from e2e.jobs import device, printing_job
from e2e.waiting import wait_until

pytestmark = pytest.mark.nomad


def test_an_unconfigured_file_does_not_stop_the_agent(start_agent: StartAgent) -> None:
    """Without a `plugin` block the agent starts, offers nothing, and the log says what to set."""
    agent = start_agent("", binary=binaries.built("nomad-1.9"))
    assert agent.api.device_groups() == {}
    wait_until(
        "the log says what to set",
        lambda: "set vgpus or vgpu_memory in the config block" in agent.log,
    )
    assert agent.the_plugin().is_running()


def test_the_main_job_works(start_agent: StartAgent) -> None:
    """With a `plugin` block two tasks share one GPU there as they do on a current Nomad."""
    config = plugin_block('vgpus = 2\n simulate = ["a100-sxm4-80gb"]')
    agent = start_agent(config, binary=binaries.built("nomad-1.9"))
    job = agent.api.submit(printing_job("old", device(), count=2))
    ended = agent.api.wait_for(job, "complete", 2)
    environments = [agent.api.environment(allocation) for allocation in ended]
    assert len({e["NVIDIA_VISIBLE_DEVICES"] for e in environments}) == 1
    assert {e["NVIDIA_VGPU_MEMORY_MIB"] for e in environments} == {"40960"}
    assert [e["NVIDIA_VGPU_IDS"] for e in environments] == [granted_ids(a)[0] for a in ended]
    node = agent.api.node()
    wait_until("figures arrive", lambda: agent.api.device_stats(node))
    shown = agent.cli("node", "status", "-stats", node["ID"])
    assert "Temperature" in shown.stdout, shown.stderr
