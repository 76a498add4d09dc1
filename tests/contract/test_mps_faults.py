# SPDX-License-Identifier: MPL-2.0
"""MPS when something goes wrong: what the vGPUs say, what is refused, and what is left alone."""

from __future__ import annotations

import pytest
from cuda_process import opened

from nomad_nvidia_vgpu.rpc.client import Refused

from .conftest import Start, Started
from .fingerprints import Groups, first_in, healthy, reasons, until
from .mps_machine import DEFAULT, EXCLUSIVE, MpsMachine, attribute, eventually

LONG_S = 60.0
"""Half of what a reservation waits for a GPU that is not known yet."""
MEMORY, PERCENTAGE = "default_device_pinned_mem_limit", "default_active_thread_percentage"


def only_the_first_is_sick(machine: MpsMachine, groups: Groups, says: str) -> None:
    """GPU 0 says this, and GPU 1 nothing."""
    assert healthy(groups) == {machine.uuid(0): False, machine.uuid(1): True}
    assert all(says in reason for reason in reasons(groups)), reasons(groups)


def isolation(stream_of: Started, machine: MpsMachine, wanted: str) -> None:
    """Waits until GPU 0 is published with this isolation."""
    stream = stream_of.fingerprints()
    while attribute(stream.next_within(LONG_S), "memory_isolation")[machine.uuid(0)] != wanted:
        pass
    stream.cancel()


# Daemons


def test_a_daemon_that_was_killed_is_started_again(machine: MpsMachine, start: Start) -> None:
    """With its limits; the other GPU's is not touched."""
    host = start(machine.node, **machine.config(max_vgpus_per_task=1))
    until(host.fingerprints(), 2)
    envs = host.reserve(machine.ids(0)).envs
    first, second = machine.daemon(0), machine.daemon(1)
    machine.fake.kill_daemon(machine.pipe(0))
    eventually(lambda: machine.fake.daemons(machine.pipe(0)))
    assert machine.daemon(0) != first
    pipe = {"CUDA_MPS_PIPE_DIRECTORY": envs["CUDA_MPS_PIPE_DIRECTORY"]}
    eventually(lambda: opened(machine.fake, pipe)["memory_mib"] == machine.memory_mib() // 4)
    assert machine.daemon(1) == second


def test_a_daemon_that_cannot_be_started_again_takes_its_gpu_alone(
    machine: MpsMachine, start: Start
) -> None:
    """Reserve refuses with the tool's words and where to read more; then all is well again."""
    host = start(machine.node, **machine.config())
    stream = host.fingerprints()
    until(stream, 2)
    second = machine.daemon(1)
    machine.fake.fail_start("Failed to create the pipes", pipe=machine.pipe(0))
    machine.fake.kill_daemon(machine.pipe(0))
    only_the_first_is_sick(machine, until(stream, 1), "'Failed to create the pipes'")
    with pytest.raises(Refused, match=r"Failed to create the pipes.*see .*control\.log"):
        host.reserve(machine.ids(0))
    assert host.reserve(machine.ids(0, gpu=1))
    machine.fake.heal()
    until(stream, 2)
    assert machine.daemon(1) == second
    assert len([m for m in host.logged("warn") if "Failed to create" in m]) == 1


def test_a_daemon_that_hangs_takes_its_gpu_alone(machine: MpsMachine, start: Start) -> None:
    """It is not ended: tasks may use it. The plugin leaves in time while the tool hangs."""
    host = start(machine.node, **machine.config())
    stream = host.fingerprints()
    until(stream, 2)
    first = machine.daemon(0)
    machine.fake.hang(pipe=machine.pipe(0))
    only_the_first_is_sick(machine, until(stream, 1), "does not answer")
    with pytest.raises(Refused, match="drain the node, then end the daemon"):
        host.reserve(machine.ids(0))
    assert host.reserve(machine.ids(0, gpu=1))
    machine.fake.heal()
    until(stream, 2)
    assert machine.daemon(0) == first


@pytest.mark.parametrize("listening", [False, True], ids=["never", "all the same"])
def test_a_start_that_hangs_does_not_hold_up_the_others(
    machine: MpsMachine, start: Start, *, listening: bool
) -> None:
    """The first fingerprint comes in time with the GPU that works."""
    machine.become("h100x8", 2)
    machine.fake.hang_start(listening=listening, pipe=machine.pipe(0))
    stream = start(machine.node, **machine.config()).fingerprints()
    groups = first_in(stream, lambda groups: healthy(groups).get(machine.uuid(1), False))
    if sum(healthy(groups).values()) == 1:
        only_the_first_is_sick(machine, groups, "")
    machine.fake.heal()
    until(stream, 2)
    assert machine.daemon(0)


def test_a_fault_of_a_task_takes_its_gpu_until_the_task_has_ended(
    machine: MpsMachine, start: Start
) -> None:
    """The sentence says so; no other GPU is concerned."""
    host = start(machine.node, **machine.config())
    stream = host.fingerprints()
    until(stream, 2)
    for gpu in (0, 1):
        machine.task(host.reserve(machine.ids(0, gpu=gpu)).envs)
    machine.fake.fault(machine.pipe(0))
    only_the_first_is_sick(machine, until(stream, 1), "into FAULT: stop the tasks on this GPU")
    with pytest.raises(Refused, match="FAULT"):
        host.reserve(machine.ids(1))
    machine.end_tasks()
    until(stream, 2)
    assert opened(machine.fake, host.reserve(machine.ids(1)).envs)["error"] == 0


# What does not hold


def test_a_limit_that_was_not_applied_promises_nothing(machine: MpsMachine, start: Start) -> None:
    """The GPU can be used, the log says what is wrong, once."""
    machine.fake.lie(f"set_{MEMORY}", pipe=machine.pipe(0))
    host = start(machine.node, **machine.config())
    groups = until(host.fingerprints(), 2)
    held = {machine.uuid(0): "none", machine.uuid(1): "mps"}
    assert attribute(groups, "memory_isolation") == held
    said = (
        f"{machine.uuid(0)}: {MEMORY} was set to {machine.memory_mib()}M and reads back as no word"
    )
    eventually(lambda: any(said in message for message in host.logged("warn")))
    passes = len(machine.fake.commands(machine.pipe(0)))
    eventually(lambda: len(machine.fake.commands(machine.pipe(0))) > passes + 20)
    assert len([message for message in host.logged("warn") if said in message]) == 1
    machine.fake.heal()
    isolation(host, machine, "mps")


def test_a_percentage_that_was_not_applied_says_nothing_of_memory(
    machine: MpsMachine, start: Start
) -> None:
    """But the log does."""
    machine.fake.lie(f"set_{PERCENTAGE}")
    host = start(machine.node, **machine.config(max_vgpus_per_task=1))
    groups = until(host.fingerprints(), 2)
    assert set(attribute(groups, "memory_isolation").values()) == {"mps"}
    eventually(lambda: any(f"{PERCENTAGE} was set to 25" in m for m in host.logged("warn")))


def test_a_compute_mode_that_somebody_changed_promises_nothing(
    machine: MpsMachine, start: Start
) -> None:
    """It is not fought; the log has the remedy, and following it helps."""
    host = start(machine.node, **machine.config())
    isolation(host, machine, "mps")
    machine.node.set_compute_mode("gpu 0", DEFAULT)
    isolation(host, machine, "none")
    remedy = f"nvidia-smi -i {machine.uuid(0)} -c EXCLUSIVE_PROCESS"
    eventually(lambda: any(remedy in message for message in host.logged("warn")))
    asked = len(machine.fake.commands(machine.pipe(0)))
    eventually(lambda: len(machine.fake.commands(machine.pipe(0))) > asked + 10)
    assert machine.modes() == [DEFAULT, EXCLUSIVE]
    assert host.reserve(machine.ids(0))
    machine.node.set_compute_mode("gpu 0", EXCLUSIVE)
    isolation(host, machine, "mps")


# The driver


def test_a_driver_that_hangs_on_one_gpu_holds_up_no_other(
    machine: MpsMachine, start: Start
) -> None:
    """Neither the first fingerprint nor any reservation waits for it."""
    machine.node.set("gpu 0", "hang.nvmlDeviceSetComputeMode", 1)
    host = start(machine.node, **machine.config())
    stream = host.fingerprints()
    says = "does not answer in time"
    groups = first_in(
        stream,
        lambda groups: (
            sum(healthy(groups).values()) == 1 and any(says in r for r in reasons(groups))
        ),
    )
    only_the_first_is_sick(machine, groups, says)
    assert host.reserve(machine.ids(0, gpu=1))  # the call hangs until the test ends
    assert host.end() == 0


def test_a_driver_that_hangs_later_takes_its_gpu_away_until_it_answers(
    machine: MpsMachine, start: Start
) -> None:
    """Nobody looks after its daemon meanwhile."""
    host = start(machine.node, **machine.config())
    stream = host.fingerprints()
    until(stream, 2)
    machine.node.set("gpu 0", "hang.nvmlDeviceGetComputeMode", 1)
    only_the_first_is_sick(machine, until(stream, 1), "does not answer")
    machine.node.clear("gpu 0", "hang.nvmlDeviceGetComputeMode")
    until(stream, 2)
