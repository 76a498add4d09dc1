# SPDX-License-Identifier: MPL-2.0
"""Keeping one MPS daemon per GPU with the limits of the config, over the fake tool."""

from __future__ import annotations

import threading

import psutil
import pytest
from mps_control.node import wait_until
from mps_control.versions import VERSIONS
from unit.example_gpus import gpu, mig

from contract.mps.mps_node import EXCLUSIVE, A, B, MpsNode, Plugins, weak, without_sentence
from nomad_nvidia_vgpu.config.blocks import MpsConfig
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.gpu.model import Gpu
from nomad_nvidia_vgpu.sharing.enforcement import IN_FORCE
from nomad_nvidia_vgpu.sharing.mps import control as mps_tool
from nomad_nvidia_vgpu.sharing.mps import logs as mps_logs
from nomad_nvidia_vgpu.sharing.mps import tries as mps_tries
from nomad_nvidia_vgpu.sharing.mps.enforcer import MpsEnforcer
from nomad_nvidia_vgpu.sharing.mps.strategy import Mps

MEMORY, PERCENTAGE = "default_device_pinned_mem_limit", "default_active_thread_percentage"
SOON_S = 3.0
LONG_S = 3600.0


# Starting and adopting


def test_all_is_in_force_after_the_first_pass(node: MpsNode, plugins: Plugins) -> None:
    """A daemon, its defaults for the largest grant, and the compute mode."""
    assert plugins.keep(max_vgpus_per_task=1) == IN_FORCE
    assert node.pid()
    assert plugins.modes.modes == {"GPU-a": EXCLUSIVE}
    facts = node.client().facts
    assert (facts["memory_mib"], facts["percentage"]) == (4000, 25)


@pytest.mark.parametrize(
    "options", [{}, {"memory_limit": False}, {"exclusive_process": False}], ids=str
)
@pytest.mark.parametrize("one", [A, gpu("GPU-b", unified_memory=True), mig("MIG-1")])
def test_a_plan_expects_what_is_brought_into_force(
    plugins: Plugins, options: dict[str, bool], one: Gpu
) -> None:
    """`plan` and simulated GPUs show what a node would."""
    config = PluginConfig(vgpus=4, sharing="mps", mps=MpsConfig(**options))  # type: ignore[arg-type]
    kept = plugins.start(**options).keep(one, 4)
    assert kept.holds_memory is Mps().expected(config, one).holds_memory


def test_a_server_holds_the_gpu_before_the_first_task(node: MpsNode, plugins: Plugins) -> None:
    """EXCLUSIVE_PROCESS lets in whoever comes first, be it a process that dropped its limits."""
    enforcer = plugins.start(max_vgpus_per_task=1)
    assert enforcer.keep(A, 4) == IN_FORCE
    wait_until(lambda: len(node.fake.servers(node.pipe())) == 1)
    assert enforcer.keep(A, 4) == IN_FORCE
    facts = node.client().facts
    assert [s.pid for s in node.fake.servers()] == [facts["server"]]
    assert (facts["memory_mib"], facts["percentage"]) == (4000, 25)


def test_without_multi_user_mode_the_first_task_starts_its_server(
    node: MpsNode, plugins: Plugins
) -> None:
    """A server of root's would keep the tasks of all other users waiting."""
    enforcer = plugins.start(multi_user=False)
    for _ in range(2):
        assert enforcer.keep(A, 4) == IN_FORCE
    assert node.fake.servers() == []


def test_a_server_that_does_not_start_isolates_nobody(node: MpsNode, plugins: Plugins) -> None:
    """Another process may have the GPU. It is a problem once it is sure, and gone with its cause."""
    enforcer = plugins.start()
    node.fake.fail_server()
    problem = enforcer.keep(A, 4).problem
    log = f"{node.directory()}/log"
    assert (
        f"its MPS server does not start: see 'exited with status' in {log}/control.log,"
        f" {log}/server.log, and who uses the GPU" in problem
    )
    assert enforcer.keep(A, 4).problem == problem
    node.fake.heal()
    wait_until(lambda: enforcer.keep(A, 4) == IN_FORCE)


def test_a_server_that_is_not_ready_is_starting_and_later_a_problem(
    node: MpsNode, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a GPU can take seconds; until then nothing can be set on its server."""
    enforcer = plugins.start()
    node.fake.hold_initializing()
    assert enforcer.keep(A, 4).problem == "GPU-a: its MPS server is starting: wait a moment"
    monkeypatch.setattr(mps_tries, "_STARTING_S", 0.0)
    assert "its MPS server does not start" in enforcer.keep(A, 4).problem
    node.fake.heal()
    wait_until(lambda: enforcer.keep(A, 4) == IN_FORCE)


def test_tries_to_start_a_server_come_ever_less_often(node: MpsNode, plugins: Plugins) -> None:
    """A node whose server cannot start is not kept busy by it."""
    enforcer = plugins.start()
    node.fake.fail_server()
    for _ in range(6):
        enforcer.keep(A, 4)
    assert 1 <= node.lines().count("start_server -uid 0") <= 5


def test_a_server_that_a_task_has_started_may_take_its_time(
    node: MpsNode, plugins: Plugins
) -> None:
    """Without multi-user mode each first task does: that makes no GPU unhealthy."""
    enforcer = plugins.start(multi_user=False)
    assert enforcer.keep(A, 4) == IN_FORCE
    node.fake.hold_initializing()
    node.tell("start_server -uid 0")
    assert enforcer.keep(A, 4).problem == ""


@pytest.mark.parametrize("kept", [True, False])
def test_somebodys_prompt_takes_nothing_away(
    node: MpsNode, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, *, kept: bool
) -> None:
    """A daemon that turns us away serves its tasks: it is neither ended nor doubled."""
    monkeypatch.setattr(mps_tool, "ANSWER_S", SOON_S)
    enforcer = plugins.start()
    enforcer.keep(A, 4)
    before = node.pid()
    if not kept:
        enforcer = plugins.start()
    with node.prompt():
        found = enforcer.keep(A, 4)
        assert "answers somebody else" in (found.weakness if kept else found.problem)
        assert found.holds_memory is kept
    assert enforcer.keep(A, 4) == IN_FORCE
    assert node.pid() == before
    assert len(node.fake.starts()) == 1


def test_multi_user_mode_is_tried_again_with_another_driver_only(
    node: MpsNode, plugins: Plugins
) -> None:
    """Else each restart of the plugin would end a daemon that is well."""
    node.fake.set_version("550")
    old, new = gpu("GPU-a", driver_version="550.1"), gpu("GPU-a", driver_version="555.1")
    plugins.start().keep(old, 4)
    before = node.pid()
    plugins.start().keep(old, 4)
    assert node.pid() == before
    plugins.start().keep(gpu("GPU-a", driver_version=None), 4)
    assert node.pid() == before
    node.fake.set_version("555")
    assert plugins.start().keep(new, 4) == IN_FORCE
    assert node.pid() != before


@pytest.mark.parametrize("version", list(VERSIONS))
def test_each_version_is_kept(node: MpsNode, plugins: Plugins, version: str) -> None:
    """Also where it writes no pid file, knows no statuses, and has no multi-user mode."""
    node.fake.set_version(version)
    enforcer = plugins.start()
    enforcer.keep(A, 4)
    before = node.pid()
    node.client()
    assert enforcer.keep(A, 4).holds_memory
    assert node.client().facts["memory_mib"] == 16000
    node.end_clients()
    assert plugins.start().keep(A, 4).holds_memory
    assert node.pid() == before
    assert plugins.start().release("GPU-a") == ""
    assert node.fake.daemons() == []


def test_a_daemon_that_lives_is_adopted_with_its_limits(node: MpsNode, plugins: Plugins) -> None:
    """A plugin that starts finds the daemon of the one before; the tasks on it notice nothing."""
    plugins.keep()
    before, server = node.pid(), node.client().facts["server"]
    node.fake.forget()
    assert plugins.keep() == IN_FORCE
    assert node.pid() == before
    assert node.client().facts["server"] == server
    assert node.fake.starts() == []
    # A limit that is shown rounded is set again; the server and its clients are left alone.
    assert not [line for line in node.lines() if not line.startswith(("get_", "set_"))]


def test_limits_that_read_back_rounded_are_set_anew_by_each_process(
    node: MpsNode, plugins: Plugins
) -> None:
    """What was set before may be another size that reads back the same."""
    limited = {"max_vgpus_per_task": 1}
    one = gpu("GPU-a", memory_mib=15360)
    assert plugins.start(**limited).keep(one, 4) == IN_FORCE
    assert plugins.start(**limited).keep(one, 5) == IN_FORCE
    assert node.client().facts["memory_mib"] == 3072


def test_a_second_pass_changes_nothing(node: MpsNode, plugins: Plugins) -> None:
    """Each pass only looks, as long as all is well."""
    enforcer = plugins.start()
    enforcer.keep(A, 4)
    node.client()
    enforcer.keep(A, 4)  # the new server's own limits may have to be set once
    node.fake.forget()
    assert enforcer.keep(A, 4) == IN_FORCE
    assert {line.partition("_")[0] for line in node.lines()} == {"get"}
    assert enforcer.keep(A, 4) == IN_FORCE


def test_a_dead_daemon_is_started_again_with_its_limits(node: MpsNode, plugins: Plugins) -> None:
    """The defaults have died with it."""
    enforcer = plugins.start(max_vgpus_per_task=1)
    enforcer.keep(A, 4)
    before = node.pid()
    node.fake.kill_daemon(node.pipe())
    wait_until(lambda: not node.fake.servers())
    assert enforcer.keep(A, 4) == IN_FORCE
    assert node.pid() != before
    assert node.client().facts["memory_mib"] == 4000


def test_each_gpu_has_its_own(node: MpsNode, plugins: Plugins) -> None:
    """What happens to one does not concern the other."""
    enforcer = plugins.start()
    threads = [threading.Thread(target=enforcer.keep, args=(one, 4)) for one in (A, B)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other = node.pid("GPU-b")
    node.fake.fail_start("no", pipe=node.pipe())
    node.fake.kill_daemon(node.pipe())
    wait_until(lambda: not node.fake.servers(node.pipe()))
    assert "'no'" in enforcer.keep(A, 4).problem
    assert enforcer.keep(B, 4) == IN_FORCE
    assert node.pid("GPU-b") == other


def test_a_daemon_that_came_of_a_start_that_hung_is_adopted(
    node: MpsNode, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started once, not twice."""
    enforcer = plugins.start()
    with monkeypatch.context() as context:
        context.setattr(mps_tool, "START_S", SOON_S)
        node.fake.hang_start(listening=True)
        assert "does not answer" in enforcer.keep(A, 4).problem
    node.fake.heal()
    assert enforcer.keep(A, 4) == IN_FORCE
    assert len(node.fake.starts()) == 1


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
    enforcer = MpsEnforcer(options, modes, lambda one: int(one.uuid == "GPU-a"))
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


# Options that changed


CHANGES = [{"multi_user": False}, {"memory_limit": False}]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_an_idle_daemon_is_renewed_for_other_options(
    node: MpsNode, plugins: Plugins, change: dict[str, bool]
) -> None:
    """What a daemon was started with cannot be changed while it runs."""
    plugins.keep()
    before = node.pid()
    assert not plugins.keep(**change).weakness
    assert node.pid() != before
    renewed = node.pid()
    plugins.keep(**change)
    assert node.pid() == renewed


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_daemon_in_use_is_renewed_once_its_tasks_have_ended(
    node: MpsNode, plugins: Plugins, change: dict[str, bool]
) -> None:
    """Meanwhile it can be used, and the log says what is to come."""
    plugins.keep()
    before = node.pid()
    node.client()
    enforcer = plugins.start(**change)
    found = enforcer.keep(A, 4)
    assert not found.problem
    assert "renewed once the tasks that use it have ended" in found.weakness
    assert node.pid() == before
    node.end_clients()
    assert not enforcer.keep(A, 4).weakness
    assert node.pid() != before


def test_a_daemon_without_a_record_is_adopted(node: MpsNode, plugins: Plugins) -> None:
    """Better than to end one that tasks may use."""
    plugins.keep()
    before = node.pid()
    (node.directory() / "daemon.json").unlink()
    assert plugins.keep() == IN_FORCE
    assert node.pid() == before


def test_the_process_that_keeps_a_daemon_keeps_its_logs_small(
    node: MpsNode, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each pass; another process only looks."""
    monkeypatch.setattr(mps_logs, "LARGEST_BYTES", 1 << 16)
    enforcer = plugins.start()
    enforcer.keep(A, 4)
    log = node.directory() / "log/control.log"
    log.write_bytes(b"Cmd:get_server_list\n" * 9000)
    plugins.start_another().keep(A, 4)
    assert log.stat().st_size > 1 << 16
    enforcer.keep(A, 4)
    assert log.stat().st_size < 1 << 16
    assert node.pid()
