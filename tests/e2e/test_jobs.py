# SPDX-License-Identifier: MPL-2.0
"""Jobs that share GPUs: what a task is told, who gets what, and who must wait."""

import pytest

from e2e import binaries
from e2e.agent import Agent
from e2e.api import granted_ids
from e2e.conftest import A100, T4, VGPUS, every_nomad
from e2e.jobs import affinity, constraint, device, on_model, printing_job, staying_job

pytestmark = [pytest.mark.nomad, every_nomad]

EXAMPLE = binaries.REPOSITORY / "examples/gpu-test.nomad.hcl"


def test_the_example_job_learns_its_gpu(agent: Agent) -> None:
    """The README's example job runs and prints the UUID, id and memory of its share."""
    job = agent.api.submit(EXAMPLE.read_text())
    (allocation,) = agent.api.wait_for(job, "complete")
    (vgpu,) = granted_ids(allocation, "smi")
    gpu = vgpu.rpartition("-")[0]
    assert gpu in agent.api.device_groups()[A100].gpus  # its affinity
    printed = agent.api.output(allocation, "NVIDIA_VGPU_MEMORY_MIB", "smi").splitlines()
    assert f"NVIDIA_VISIBLE_DEVICES={gpu}" in printed
    assert f"NVIDIA_VGPU_IDS={vgpu}" in printed
    assert f"NVIDIA_VGPU_BUDGETS={gpu}=5120" in printed
    assert "NVIDIA_VGPU_MEMORY_MIB=5120" in printed


def test_sixteen_tasks_share_a_gpu_and_the_next_waits(agent: Agent) -> None:
    """A GPU of 16 vGPUs takes 16 tasks; the 17th is placed when one of them ends."""
    on_t4 = device(on_model(T4))
    (gpu,) = agent.api.device_groups()[T4].gpus
    sharers = agent.api.submit(staying_job("sharers", on_t4, count=VGPUS))
    running = agent.api.wait_for(sharers, "running", VGPUS)
    taken = [vgpu for allocation in running for vgpu in granted_ids(allocation)]
    assert sorted(taken) == sorted(f"{gpu}-{n}" for n in range(VGPUS))
    visible = {agent.api.environment(a)["NVIDIA_VISIBLE_DEVICES"] for a in running}
    assert visible == {gpu}

    late = agent.api.submit(staying_job("late", on_t4))
    why = agent.api.wait_until_blocked(late)
    assert "devices" in str(why)
    assert agent.api.allocations(late) == []

    agent.api.submit(staying_job("sharers", on_t4, count=VGPUS - 1))
    (placed,) = agent.api.wait_for(late, "running")
    still_taken = [
        v for a in agent.api.wait_for(sharers, "running", VGPUS - 1) for v in granted_ids(a)
    ]
    assert granted_ids(placed) == sorted(set(taken) - set(still_taken))


@pytest.mark.parametrize(
    ("name", "wish", "model"),
    [
        ("affinity-a100", affinity("device.model", A100), A100),
        ("affinity-t4", affinity("device.model", T4), T4),
        ("much-memory", constraint("device.attr.memory", ">=", "40 GiB"), A100),
        ("small-share", constraint("device.attr.vgpu_memory", "<", "1 GiB"), T4),
    ],
)
def test_a_wish_chooses_the_model(agent: Agent, name: str, wish: str, model: str) -> None:
    """An affinity to a model, or a constraint on memory, decides which GPU a task gets."""
    # Three tasks: chance would choose right for all of them only once in eight runs.
    job = agent.api.submit(printing_job(name, device(wish), count=3))
    gpus = agent.api.device_groups()[model].gpus
    for allocation in agent.api.wait_for(job, "complete", 3):
        assert agent.api.environment(allocation)["NVIDIA_VISIBLE_DEVICES"] in gpus


def test_a_wish_that_nothing_fulfils_leaves_the_job_waiting(agent: Agent) -> None:
    """A task that wants a larger share than any vGPU has is not placed."""
    wish = constraint("device.attr.vgpu_memory", ">=", "6 GiB")
    job = agent.api.submit(printing_job("too-much", device(wish)))
    assert "devices" in str(agent.api.wait_until_blocked(job))


def test_two_vgpus_are_one_reservation(agent: Agent) -> None:
    """`count = 2` gives a task two vGPUs, each GPU named once, and the sum of their memory."""
    job = agent.api.submit(printing_job("two", device(on_model(A100), count=2), count=4))
    for allocation in agent.api.wait_for(job, "complete", 4):
        vgpus = granted_ids(allocation)
        environment = agent.api.environment(allocation)
        shares = {gpu: 5120 * sum(v.startswith(gpu) for v in vgpus) for gpu in _gpus(vgpus)}
        assert len(vgpus) == 2
        assert sorted(environment["NVIDIA_VGPU_IDS"].split(",")) == vgpus
        assert environment["NVIDIA_VISIBLE_DEVICES"] == ",".join(sorted(shares))
        assert environment["NVIDIA_VGPU_BUDGETS"] == ",".join(
            f"{gpu}={mib}" for gpu, mib in sorted(shares.items())
        )
        assert environment["NVIDIA_VGPU_MEMORY_MIB"] == str(min(shares.values()))


def test_the_exec_driver_passes_the_reservation_on(agent: Agent) -> None:
    """A task in the exec driver's chroot has the same variables."""
    driver = agent.api.node()["Drivers"].get("exec", {"HealthDescription": "not fingerprinted"})
    if not driver.get("Healthy"):
        pytest.skip(f"Nomad's exec driver is unhealthy: {driver['HealthDescription']}")
    job = agent.api.submit(printing_job("exec", device(on_model(T4)), driver="exec"))
    (allocation,) = agent.api.wait_for(job, "complete")
    (vgpu,) = granted_ids(allocation)
    environment = agent.api.environment(allocation)
    assert environment["NVIDIA_VGPU_IDS"] == vgpu
    assert environment["NVIDIA_VISIBLE_DEVICES"] == vgpu.rpartition("-")[0]


def _gpus(vgpus: list[str]) -> set[str]:
    return {vgpu.rpartition("-")[0] for vgpu in vgpus}
