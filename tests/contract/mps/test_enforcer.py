# SPDX-License-Identifier: MPL-2.0
"""Keeping one MPS daemon per GPU with the limits of the config, over the fake tool."""

from __future__ import annotations

import threading

import pytest
from mps_control.node import wait_until
from mps_control.versions import VERSIONS
from unit.example_gpus import gpu, mig

from contract.mps.mps_node import EXCLUSIVE, A, B, MpsNode, Plugins
from nomad_nvidia_vgpu.config.blocks import MpsConfig
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.gpu.model import Gpu
from nomad_nvidia_vgpu.sharing.enforcement import IN_FORCE
from nomad_nvidia_vgpu.sharing.mps import control as mps_tool
from nomad_nvidia_vgpu.sharing.mps import logs as mps_logs
from nomad_nvidia_vgpu.sharing.mps import tries as mps_tries
from nomad_nvidia_vgpu.sharing.mps.strategy import Mps

SOON_S = 3.0


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
@pytest.mark.parametrize("card", [A, gpu("GPU-b", unified_memory=True), mig("MIG-1")])
def test_a_plan_expects_what_is_brought_into_force(
    plugins: Plugins, options: dict[str, bool], card: Gpu
) -> None:
    """`plan` and simulated GPUs show what a node would."""
    config = PluginConfig(vgpus=4, sharing="mps", mps=MpsConfig(**options))  # type: ignore[arg-type]
    kept = plugins.start(**options).keep(card, 4)
    assert kept.holds_memory is Mps().expected(config, card).holds_memory


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
    card = gpu("GPU-a", memory_mib=15360)
    assert plugins.start(**limited).keep(card, 4) == IN_FORCE
    assert plugins.start(**limited).keep(card, 5) == IN_FORCE
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
    threads = [threading.Thread(target=enforcer.keep, args=(card, 4)) for card in (A, B)]
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
