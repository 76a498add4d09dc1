# SPDX-License-Identifier: MPL-2.0
"""An agent that has our file in plugin_dir, and no block for it."""

import pytest

from e2e import binaries
from e2e.conftest import StartAgent, every_nomad
from e2e.waiting import wait_until

pytestmark = [pytest.mark.nomad, every_nomad]

NOT_STARTED_FROM = (1, 10)
"""Nomad before starts every file in plugin_dir, configured or not."""


def test_an_unconfigured_file_does_not_stop_the_agent(start_agent: StartAgent) -> None:
    """The agent starts and offers nothing, and a line of its log says why."""
    agent = start_agent("")
    assert agent.api.device_groups() == {}
    if binaries.version_of(agent.binary) < NOT_STARTED_FROM:
        says = "set vgpus or vgpu_memory in the config block"
        wait_until("the log says what to set", lambda: says in agent.log)
        assert agent.the_plugin().is_running()
    else:
        says = "plugin not referenced in the agent configuration file"
        wait_until("the log says that there is no block", lambda: says in agent.log)
        assert agent.plugin_processes() == []
