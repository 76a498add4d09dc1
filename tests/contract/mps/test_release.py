# SPDX-License-Identifier: MPL-2.0
"""Compute modes, plugins beside each other, and taking MPS off again; over the fake tool."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mps_control.node import wait_until
from unit.example_gpus import mig

from contract.mps.mps_node import (
    DEFAULT,
    EXCLUSIVE,
    A,
    B,
    KilledError,
    MpsNode,
    Plugins,
    weak,
    without_sentence,
)
from nomad_nvidia_vgpu.errors import GpuError
from nomad_nvidia_vgpu.sharing.enforcement import IN_FORCE
from nomad_nvidia_vgpu.sharing.mps import control as mps_tool
from nomad_nvidia_vgpu.sharing.mps.daemon import MpsDaemon

PROHIBITED = "PROHIBITED"

# Compute modes


def test_the_mode_is_noted_then_set_then_the_daemon_is_started(plugins: Plugins) -> None:
    """A daemon that came first could be met by a task while others run beside it."""
    assert plugins.keep() == IN_FORCE
    assert (plugins.modes.noted, plugins.modes.daemons) == ([True], [0])


def kill_in_start(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills before the daemon is there."""

    def start(*_: object, **__: object) -> None:
        raise KilledError

    monkeypatch.setattr(MpsDaemon, "start", start)


def kill_after_start(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills when the daemon is there, and has no limits yet."""

    def settle(*_: object, **__: object) -> None:
        raise KilledError

    monkeypatch.setattr(MpsDaemon, "settle", settle)


Kill = Callable[[Plugins, pytest.MonkeyPatch], object]
KILLS: dict[str, Kill] = {
    "noted, not set": lambda p, m: m.setattr(p.modes, "kill_before_set", True),
    "set, no daemon": lambda p, m: m.setattr(p.modes, "kill_after_set", True),
    "before the daemon": kill_in_start,
    "after the daemon": kill_after_start,
}


@pytest.mark.parametrize("kill", KILLS.values(), ids=KILLS.keys())
@pytest.mark.parametrize("mode", [DEFAULT, EXCLUSIVE, PROHIBITED])
def test_whenever_it_was_killed_the_mode_of_before_comes_back(
    node: MpsNode, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, kill: Kill, mode: str
) -> None:
    """And a plugin that goes on with MPS finds its way."""
    plugins.modes.modes["GPU-a"] = mode
    with monkeypatch.context() as context:
        kill(plugins, context)
        for _ in range(2):  # Nomad starts it again, and it is killed again
            try:
                plugins.keep()
            except KilledError:
                continue
    assert plugins.keep() == IN_FORCE
    assert len(node.fake.daemons()) == 1
    assert plugins.start().release("GPU-a") == ""
    assert plugins.modes.modes["GPU-a"] == mode
    assert plugins.start().left_over() == []


@pytest.mark.parametrize("kill", KILLS.values(), ids=KILLS.keys())
def test_it_comes_back_without_another_pass_too(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch, kill: Kill
) -> None:
    """The config that is read next may share by time-slicing."""
    plugins.modes.modes["GPU-a"] = DEFAULT
    with monkeypatch.context() as context:
        kill(plugins, context)
        with pytest.raises(KilledError):
            plugins.keep()
    enforcer = plugins.start()
    assert enforcer.holds("GPU-a")
    assert enforcer.release("GPU-a") == ""
    assert plugins.modes.modes["GPU-a"] == DEFAULT
    assert enforcer.left_over() == []


def test_a_mode_that_somebody_set_since_is_theirs(node: MpsNode, plugins: Plugins) -> None:
    """As is one that a reboot has set back."""
    plugins.keep()
    plugins.modes.modes["GPU-a"] = PROHIBITED
    assert plugins.start().release("GPU-a") == ""
    assert plugins.modes.modes["GPU-a"] == PROHIBITED
    assert plugins.journal.read_text() == "{}"


def test_a_mode_that_cannot_be_set_is_a_problem_with_the_option(
    node: MpsNode, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest of a hypervisor, or an agent that is not root, can do without."""

    def refuse(uuid: str, mode: str) -> None:
        raise GpuError(f"{uuid} cannot be put into compute mode {mode}: NVML says 'Not Supported'")

    monkeypatch.setattr(plugins.modes, "set_compute_mode", refuse)
    problem = plugins.keep().problem
    assert "'Not Supported'" in problem
    assert "mps.exclusive_process = false" in problem
    assert node.fake.starts() == []
    assert not plugins.keep(exclusive_process=False).problem


def test_the_operator_can_do_without_exclusive_process(plugins: Plugins) -> None:
    """Nothing is promised then; what was set before is restored."""
    plugins.keep()
    assert plugins.keep(exclusive_process=False) == weak(holds_memory=False)
    assert plugins.modes.modes["GPU-a"] == DEFAULT
    assert plugins.keep() == IN_FORCE


def test_a_spoilt_journal_does_not_stop_anything(plugins: Plugins) -> None:
    """It is kept for a person to read."""
    plugins.keep()
    plugins.journal.write_text("{")
    assert plugins.keep() == IN_FORCE
    assert plugins.start().left_over() == ["GPU-a"]
    assert plugins.journal.with_suffix(".spoilt").read_text() == "{"


def test_a_journal_that_cannot_be_read_is_a_problem_of_the_gpus(plugins: Plugins) -> None:
    """Never the end of the thread that looks after them."""
    enforcer = plugins.start()
    enforcer.keep(A, 4)
    plugins.journal.unlink()
    plugins.journal.mkdir()
    assert enforcer.left_over() == ["GPU-a"]
    assert enforcer.holds("GPU-a")
    assert "it is not a regular file" in enforcer.release("GPU-a")


# MIG


def test_a_mig_device_has_a_daemon_and_no_compute_mode(node: MpsNode, plugins: Plugins) -> None:
    """Nothing keeps a process from running beside the server, so memory is not held."""
    device = mig("MIG-a", memory_mib=8000)
    found = plugins.start().keep(device, 2)
    assert without_sentence(found) == weak(holds_memory=False)
    assert "MIG-a is a MIG device, which has no compute mode" in found.weakness
    assert plugins.modes.modes == {}
    assert node.client("MIG-a").facts["memory_mib"] == 8000
    alone = plugins.start().keep(device, 1)
    assert alone == weak(holds_memory=False)


@pytest.mark.parametrize("mode", [DEFAULT, "PROHIBITED"])
def test_a_compute_mode_that_somebody_changes_is_told_and_not_fought(
    plugins: Plugins, mode: str
) -> None:
    """Whoever did it had a reason; jobs that demand isolation must not come here meanwhile."""
    enforcer = plugins.start()
    enforcer.keep(A, 4)
    plugins.modes.modes["GPU-a"] = mode
    for _ in range(2):
        found = enforcer.keep(A, 4)
        assert without_sentence(found) == weak(holds_memory=False)
        assert f"GPU-a is in compute mode {mode}" in found.weakness
        assert "nvidia-smi -i GPU-a -c EXCLUSIVE_PROCESS" in found.weakness
    assert plugins.modes.modes["GPU-a"] == mode
    plugins.modes.modes["GPU-a"] = EXCLUSIVE
    assert enforcer.keep(A, 4) == IN_FORCE
    plugins.modes.modes["GPU-a"] = mode
    assert plugins.keep() == IN_FORCE


# Beside each other


HOLD = """
import fcntl, os, sys
lock = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_another_process_only_looks_and_takes_over_when_the_first_ends(
    node: MpsNode, plugins: Plugins
) -> None:
    """The plugin of an agent that was killed lives on for up to a minute."""
    plugins.keep()
    plugins.start()
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(node.root / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        second = plugins.start()
        node.fake.forget()
        assert second.keep(A, 4) == IN_FORCE
        assert {line.partition("_")[0] for line in node.lines()} == {"get"}
        assert "has no MPS daemon, and another process of this plugin" in second.keep(B, 4).problem
        assert "another process of this plugin" in second.release("GPU-a")
        different = plugins.start_another(max_vgpus_per_task=1)
        assert "with other limits: end that process" in different.keep(A, 4).problem
        assert node.fake.starts() == []
        first.kill()
    assert second.keep(B, 4) == IN_FORCE
    assert second.release("GPU-a") == ""


# Taking MPS off


def test_a_gpu_is_released_once_nobody_uses_it(node: MpsNode, plugins: Plugins) -> None:
    """Daemon, directory and compute mode; nothing of another GPU's."""
    enforcer = plugins.start()
    for card in (A, B):
        enforcer.keep(card, 4)
    node.client()
    enforcer = plugins.start()
    for _ in range(2):
        assert "GPU-a is still shared by MPS, for tasks that were" in enforcer.release("GPU-a")
    assert node.pid()
    assert plugins.modes.modes["GPU-a"] == EXCLUSIVE
    node.end_clients()
    wait_until(lambda: enforcer.release("GPU-a") == "")
    assert not enforcer.holds("GPU-a")
    assert enforcer.left_over() == ["GPU-b"]
    assert (node.fake.daemons(node.pipe()), node.fake.servers(node.pipe())) == ([], [])
    assert not node.directory().exists()
    assert plugins.modes.modes == {"GPU-a": DEFAULT, "GPU-b": EXCLUSIVE}
    assert node.pid("GPU-b")


def test_a_released_gpu_can_be_shared_again(plugins: Plugins) -> None:
    """By the same process, as when a GPU leaves MIG mode."""
    enforcer = plugins.start()
    for _ in range(2):
        assert enforcer.keep(A, 4) == IN_FORCE
        assert enforcer.release("GPU-a") == ""


def test_a_daemon_that_does_not_answer_is_not_released(
    node: MpsNode, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tasks may run, and its directory is theirs."""
    plugins.keep()
    node.fake.hang()
    with monkeypatch.context() as context:
        context.setattr(mps_tool, "ANSWER_S", 1.0)
        assert "does not answer" in plugins.start().release("GPU-a")
    assert node.pid()
    assert node.directory().exists()
    assert plugins.modes.modes["GPU-a"] == EXCLUSIVE


def test_a_daemon_that_died_is_released_with_what_it_left(node: MpsNode, plugins: Plugins) -> None:
    """Its directory, and the compute mode."""
    plugins.keep()
    node.fake.stop_all()
    assert plugins.start().release("GPU-a") == ""
    assert not node.directory().exists()
    assert plugins.modes.modes["GPU-a"] == DEFAULT


def test_a_server_that_outlived_its_daemon_keeps_the_gpu(
    node: MpsNode, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks are on it: another task must not be let in beside them."""
    plugins.keep()
    node.fake.kill_daemon(node.pipe())
    with monkeypatch.context() as context:
        context.setattr(MpsDaemon, "orphaned_servers", lambda _: iter([4711]))
        assert "is still shared by MPS" in plugins.start().release("GPU-a")
    assert plugins.modes.modes["GPU-a"] == EXCLUSIVE


def test_without_the_tool_a_dead_daemon_can_be_released_and_a_living_one_not(
    node: MpsNode, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The driver's tools may have been removed since."""
    enforcer = plugins.start()
    for gpu in (A, B):
        enforcer.keep(gpu, 4)
    node.fake.kill_daemon(node.pipe("GPU-b"))
    node.fake.kill_server(node.pipe("GPU-b"))
    monkeypatch.setattr(mps_tool, "_USUAL_PATH", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not in PATH" in enforcer.release("GPU-a")
    assert enforcer.release("GPU-b") == ""


def test_a_node_that_never_used_mps_has_nothing_left_over(plugins: Plugins) -> None:
    """And none is made by asking."""
    enforcer = plugins.start()
    assert enforcer.left_over() == []
    assert not enforcer.holds("GPU-a")


def test_what_was_noted_is_left_over_even_without_a_directory(
    node: MpsNode, plugins: Plugins
) -> None:
    """Killed after the note and before the daemon."""
    plugins.keep()
    plugins.start().release("GPU-a")
    plugins.journal.write_text(json.dumps({"GPU-c": DEFAULT}))
    assert plugins.start().left_over() == ["GPU-c"]
