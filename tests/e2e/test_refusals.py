# SPDX-License-Identifier: MPL-2.0
"""An agent whose plugin is configured wrongly does not start, and its output says why."""

import pytest

from e2e.conftest import StartAgent, every_nomad, plugin_block
from e2e.waiting import wait_until

pytestmark = [pytest.mark.nomad, every_nomad]


@pytest.mark.parametrize(
    ("options", "sentences"),
    [
        pytest.param(
            "vgpus = 0",
            ["vgpus must be a whole number from 1 to 256, got 0"],
            id="number out of range",
        ),
        pytest.param(
            'vgpus = 2000\n fingerprint_period = "soon"',
            [
                "vgpus must be a whole number from 1 to 256, got 2000",
                "fingerprint_period must be a duration of at least 100ms",
                'got "soon"',
            ],
            id="two problems at once",
        ),
        pytest.param(
            "enabled = true",
            ["vgpus and vgpu_memory are both missing"],
            id="no size",
        ),
        pytest.param(
            'gpu "GPU-a" {\n vgpus = 0\n }\n gpu "*" {\n vgpus = 2\n vgpu_memory = "1GiB"\n }',
            ['gpu "GPU-a".vgpus must be a whole number', 'gpu "*".vgpus and gpu "*".vgpu_memory'],
            id="problems in two blocks",
        ),
        pytest.param(
            'vgpus = 4\n simulate = ["a100-of-my-own"]',
            ["simulate", "a100-of-my-own"],
            id="unknown profile",
        ),
        pytest.param(
            "vgpu = 4",
            ['No argument or block type is named "vgpu"'],
            id="unknown option",
        ),
    ],
)
def test_wrong_options_stop_the_agent(
    start_agent: StartAgent, options: str, sentences: list[str]
) -> None:
    """The agent exits with an error whose text names the option, the value and what is allowed."""
    agent = start_agent(plugin_block(options), start=False)
    agent.launch()
    assert agent.wait_for_exit() != 0
    assert "Error starting agent" in agent.log, agent.log_tail()
    for sentence in sentences:
        assert sentence in agent.log, agent.log_tail()
    assert "Traceback" not in agent.log
    # Nomad before 2.0.1 forgets the plugin whose config it could not set.
    wait_until("the plugin is gone", lambda: not agent.plugin_processes())
