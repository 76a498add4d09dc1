# SPDX-License-Identifier: MPL-2.0
"""The drain of docs/operations.md where the tasks have nowhere to go."""

import shlex

import doc_pages
import pytest

from e2e.conftest import StartAgent, every_nomad, plugin_block
from e2e.jobs import device, staying_job

pytestmark = [pytest.mark.nomad, every_nomad]

PAGE = doc_pages.ROOT / "docs" / "operations.md"


def test_a_drain_ends_at_its_deadline(start_agent: StartAgent) -> None:
    """Two tasks of a job, and no other node: Nomad stops one of them, and the other at the deadline.

    The deadline of the page is minutes, for tasks to find a place; here it is seconds.
    """
    agent = start_agent(plugin_block('vgpus = 4\n simulate = ["t4"]'), dev=False)
    job = agent.api.submit(staying_job("pair", device(), count=2))
    agent.api.wait_for(job, "running", 2)
    drain, _ = doc_pages.commands(PAGE, "Drain")
    assert "-deadline 5m" in drain.text
    done = agent.cli(*shlex.split(drain.text.replace("-deadline 5m", "-deadline 5s"))[1:])
    assert done.returncode == 0, done.stdout + done.stderr
    assert not agent.api.eligible()
    assert all(a["ClientStatus"] == "complete" for a in agent.api.allocations(job))
