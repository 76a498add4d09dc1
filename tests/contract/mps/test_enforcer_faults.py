# SPDX-License-Identifier: MPL-2.0
"""Limits that do not hold, and daemons that do not start or answer, over the fake tool."""

from __future__ import annotations

import psutil
import pytest
from mps_control.node import wait_until
from unit.example_gpus import gpu

from contract.mps.mps_node import A, MpsNode, Plugins, weak, without_sentence
from nomad_nvidia_vgpu.config.blocks import MpsConfig
from nomad_nvidia_vgpu.sharing.enforcement import IN_FORCE
from nomad_nvidia_vgpu.sharing.mps import control as mps_tool
from nomad_nvidia_vgpu.sharing.mps import tries as mps_tries
from nomad_nvidia_vgpu.sharing.mps.enforcer import MpsEnforcer

MEMORY, PERCENTAGE = "default_device_pinned_mem_limit", "default_active_thread_percentage"
SOON_S = 3.0
LONG_S = 3600.0


# Limits that may not hold


def test_a_memory_limit_that_is_not_applied_isolates_nobody(
    node: MpsNode, plugins: Plugins
) -> None:
    """The GPU can be used; `memory_isolation` must not promise anything."""
    node.fake.lie(f"set_{MEMORY}")
    found = plugins.keep()
    assert without_sentence(found) == weak(holds_memory=False)
    assert f"GPU-a: {MEMORY} was set to 16000M and reads back as no word" in found.weakness


def test_a_percentage_that_is_not_applied_does_not_touch_memory(
    node: MpsNode, plugins: Plugins
) -> None:
    """It is told all the same."""
    node.fake.lie(f"set_{PERCENTAGE}")
    found = plugins.keep(max_vgpus_per_task=1)
    assert without_sentence(found) == weak(holds_memory=True)
    assert f"{PERCENTAGE} was set to 25 and reads back as '100.0'" in found.weakness


def test_a_running_server_that_does_not_take_its_limit_isolates_nobody(
    node: MpsNode, plugins: Plugins
) -> None:
    """Its clients have the limits of the config before."""
    plugins.keep()
    node.client()
    node.fake.lie("set_device_pinned_mem_limit")
    found = plugins.keep(max_vgpus_per_task=1)
    assert without_sentence(found) == weak(holds_memory=False)


def test_a_daemon_that_refuses_a_limit_isolates_nobody(node: MpsNode, plugins: Plugins) -> None:
    """Whatever it said when it was told, what counts is what it has."""
    node.fake.refuse(f"set_{MEMORY}", "Insufficient privileges for UID 0")
    found = plugins.keep()
    assert without_sentence(found) == weak(holds_memory=False)


def test_without_a_memory_limit_nothing_holds_memory(plugins: Plugins) -> None:
    """The operator's choice needs no warning."""
    assert plugins.keep(memory_limit=False) == weak(holds_memory=False)
    unified = plugins.start().keep(gpu("GPU-b", unified_memory=True), 4)
    assert unified == weak(holds_memory=False)


def test_a_changed_share_reaches_a_server_that_runs(node: MpsNode, plugins: Plugins) -> None:
    """Tasks that start from now on have the new limits, others keep theirs."""
    plugins.keep()
    assert node.client().facts["memory_mib"] == 16000
    assert plugins.keep(max_vgpus_per_task=1) == IN_FORCE
    assert node.client().facts["memory_mib"] == 4000


def test_a_priority_is_brought_into_force(node: MpsNode, plugins: Plugins) -> None:
    """And read back, as the limits are."""
    modes, options = plugins.modes, MpsConfig(root=str(node.root))
    enforcer = MpsEnforcer(options, modes, lambda card: int(card.uuid == "GPU-a"))
    assert enforcer.keep(A, 4) == IN_FORCE
    assert "set_default_client_priority 1" in node.lines()
    node.fake.lie("get_default_client_priority", "0")
    assert "default_client_priority was set to 1 and reads back as '0'" in (
        enforcer.keep(A, 4).weakness
    )
    plugins.end(enforcer)


# What goes wrong


@pytest.mark.parametrize("command", ["get_server_list", f"get_{PERCENTAGE}", "get_client_list"])
def test_a_daemon_that_does_not_answer_is_a_problem_and_no_thread_is_stuck(
    node: MpsNode, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """It may serve its tasks well: it is neither ended nor doubled, and taken up when it can."""
    enforcer = plugins.start()
    enforcer.keep(A, 4)
    before, client = node.pid(), node.client()
    node.fake.hang(command)
    with monkeypatch.context() as context:
        context.setattr(mps_tool, "ANSWER_S", SOON_S)
        assert "does not answer" in enforcer.keep(A, 4).problem
    assert not [p for p in psutil.Process().children() if str(node.fake.control) in p.cmdline()]
    node.fake.heal()
    assert enforcer.keep(A, 4) == IN_FORCE
    assert node.pid() == before
    assert [p.pid for p in node.fake.clients()] == [client.pid]


def test_a_node_without_the_tool_says_so_and_touches_nothing(
    node: MpsNode, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the compute mode, which would keep every task but one away."""
    monkeypatch.setattr(mps_tool, "_USUAL_PATH", "")
    monkeypatch.setenv("PATH", str(node.root))
    assert "nvidia-cuda-mps-control is not in PATH" in plugins.keep().problem
    assert not node.root.exists()
    assert plugins.modes.modes == {}


def test_a_daemon_that_dies_at_once_is_a_problem_each_time(node: MpsNode, plugins: Plugins) -> None:
    """And works as soon as it can."""
    enforcer = plugins.start()
    node.fake.die_after_start()
    for _ in range(2):
        assert "ended right after its start" in enforcer.keep(A, 4).problem
    node.fake.heal()
    wait_until(lambda: enforcer.keep(A, 4) == IN_FORCE)


def test_tries_to_start_a_daemon_come_ever_less_often(
    node: MpsNode, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What went wrong last is told meanwhile; a daemon that lived is started again at once."""
    enforcer = plugins.start(multi_user=False)
    with monkeypatch.context() as context:
        context.setattr(mps_tries, "_FIRST_PAUSE_S", 0.0)
        node.fake.die_after_start()
        first = enforcer.keep(A, 4).problem
        node.fake.heal()
        assert enforcer.keep(A, 4) == enforcer.keep(A, 4) == IN_FORCE
    monkeypatch.setattr(mps_tries, "_FIRST_PAUSE_S", LONG_S)
    monkeypatch.setattr(mps_tries, "_LONGEST_PAUSE_S", LONG_S)
    node.fake.die_after_start()
    node.fake.kill_daemon(node.pipe())
    wait_until(lambda: not node.fake.daemons())
    node.fake.forget()
    assert [enforcer.keep(A, 4).problem for _ in range(4)] == [first] * 4
    assert len(node.fake.starts()) == 2
    assert plugins.start(multi_user=False).keep(A, 4).problem == first
    assert len(node.fake.starts()) == 3


def test_a_daemon_that_never_lives_until_the_next_pass_is_a_problem(
    node: MpsNode, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though each start went well."""
    monkeypatch.setattr(mps_tries, "_FIRST_PAUSE_S", LONG_S)
    monkeypatch.setattr(mps_tries, "_LONGEST_PAUSE_S", LONG_S)
    enforcer = plugins.start(multi_user=False)
    for _ in range(2):
        assert enforcer.keep(A, 4) == IN_FORCE
        node.fake.kill_daemon(node.pipe())
        wait_until(lambda: not node.fake.daemons())
    log = f"{node.directory()}/log/control.log"
    said = f"GPU-a: its MPS daemon ends soon after each start: see {log}"
    assert enforcer.keep(A, 4).problem == said


def test_a_driver_without_multi_user_mode_is_a_weakness(node: MpsNode, plugins: Plugins) -> None:
    """The limits hold; tasks of two users wait for each other. The config can ask for that."""
    node.fake.set_version("550")
    found = plugins.keep()
    assert without_sentence(found) == weak(holds_memory=True)
    assert "set mps.multi_user = false" in found.weakness
    node.fake.stop_all()
    assert plugins.keep(multi_user=False) == IN_FORCE


def test_a_fault_is_a_problem_until_its_clients_have_left(node: MpsNode, plugins: Plugins) -> None:
    """Then the daemon is started again, with its limits."""
    enforcer = plugins.start()
    enforcer.keep(A, 4)
    before = node.pid()
    node.client()
    node.fake.fault(node.pipe())
    assert "into FAULT: stop the tasks on this GPU" in enforcer.keep(A, 4).problem
    assert node.pid() == before
    node.end_clients()
    assert enforcer.keep(A, 4) == IN_FORCE
    assert node.client().facts["error"] == 0


def test_a_server_still_in_fault_without_clients_is_renewed(
    node: MpsNode, plugins: Plugins
) -> None:
    """One that does not recover by itself."""
    enforcer = plugins.start()
    enforcer.keep(A, 4)
    before = node.pid()
    node.client()
    node.end_clients()
    node.fake.lie("get_server_status", "FAULT")
    enforcer.keep(A, 4)
    assert node.pid() != before
