# SPDX-License-Identifier: MPL-2.0
"""Sharing by MPS when nothing goes wrong: the installed program, a fake driver, fake MPS tools."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from cuda_process import opened

from nomad_nvidia_vgpu.rpc.client import Refused
from nomad_nvidia_vgpu.sharing.grant import Mount

from .conftest import PATIENCE_S, PROGRAM, Start
from .fingerprints import first_in, healthy, reasons, until
from .mps_machine import DEFAULT, EXCLUSIVE, MpsMachine, attribute, eventually

TRIES = 3
"""For what the plugin has 10 s for, as the agent does: the machine may be busy with something else."""


def test_the_first_fingerprint_tells_what_is_in_force(machine: MpsMachine, start: Start) -> None:
    """Daemons, limits and modes are there by then: tasks that Nomad restores meet them."""
    for _ in range(TRIES):
        host = start(machine.node, **machine.config())
        groups = host.fingerprints().next_within(PATIENCE_S)
        if all(healthy(groups).values()):
            break
        host.end()
        machine.fake.stop_all()
    uuids = {machine.uuid(0), machine.uuid(1)}
    assert healthy(groups) == dict.fromkeys(uuids, True)
    assert {g.name for g in groups} == {f"NVIDIA H100 80GB HBM3/{uuid}" for uuid in uuids}
    assert [len(g.instances) for g in groups] == [4, 4]
    assert attribute(groups, "sharing") == dict.fromkeys(uuids, "mps")
    assert attribute(groups, "memory_isolation") == dict.fromkeys(uuids, "mps")
    assert attribute(groups, "vgpu_memory") == dict.fromkeys(uuids, machine.memory_mib() // 4)
    assert machine.daemon(0) != machine.daemon(1)
    assert machine.modes() == [EXCLUSIVE, EXCLUSIVE]


def test_each_daemon_sees_its_gpu_and_nothing_of_the_agents_environment(
    machine: MpsMachine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault stays on its GPU; what the agent knows stays with the agent."""
    monkeypatch.setenv("VAULT_TOKEN", "secret")
    until(start(machine.node, **machine.config()).fingerprints(), 2)
    for index in (0, 1):
        uuid = machine.uuid(index)
        (begun,) = [s for s in machine.fake.starts() if s.cuda["CUDA_VISIBLE_DEVICES"] == uuid]
        assert begun.cuda == {
            "CUDA_VISIBLE_DEVICES": uuid,
            "CUDA_MPS_PIPE_DIRECTORY": str(machine.pipe(index)),
            "CUDA_MPS_LOG_DIRECTORY": str(machine.root / uuid / "log"),
        }
        assert begun.names == {"PATH", "LD_LIBRARY_PATH", *begun.cuda}
        assert begun.leads_session
        for path in (machine.pipe(index), machine.root):
            assert stat.S_IMODE(path.stat().st_mode) == 0o755


@pytest.mark.parametrize("granted", [1, 3])
def test_a_reservation_scales_with_its_vgpus(
    machine: MpsMachine, start: Start, granted: int
) -> None:
    """Its variables, all of them, and what a process that has them meets."""
    host = start(machine.node, **machine.config())
    until(host.fingerprints(), 2)
    ids = machine.ids(*range(granted))
    uuid, memory_mib = machine.uuid(), machine.memory_mib() * granted // 4
    reservation = host.reserve(ids)
    assert reservation.envs == {
        "NVIDIA_VISIBLE_DEVICES": uuid,
        "NVIDIA_VGPU_IDS": ",".join(ids),
        "NVIDIA_VGPU_MEMORY_MIB": str(memory_mib),
        "NVIDIA_VGPU_BUDGETS": f"{uuid}={memory_mib}",
        "NVIDIA_VGPU_GROUP": f"letmutx/gpu/{machine.node.get('gpu 0', 'name')}/{uuid}",
        "CUDA_MPS_PIPE_DIRECTORY": str(machine.pipe()),
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={memory_mib}M",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(25 * granted),
    }
    assert reservation.mounts == ()
    facts = opened(machine.fake, reservation.envs)
    assert facts["error"] == 0
    assert (facts["memory_mib"], facts["percentage"]) == (memory_mib, 25 * granted)


def test_a_task_that_drops_its_limits_has_the_largest_grant(
    machine: MpsMachine, start: Start
) -> None:
    """Which is one share with `max_vgpus_per_task = 1`."""
    host = start(machine.node, **machine.config(max_vgpus_per_task=1))
    until(host.fingerprints(), 2)
    envs = host.reserve(machine.ids(0)).envs
    facts = opened(machine.fake, {"CUDA_MPS_PIPE_DIRECTORY": envs["CUDA_MPS_PIPE_DIRECTORY"]})
    assert (facts["memory_mib"], facts["percentage"]) == (machine.memory_mib() // 4, 25)


def test_a_task_that_drops_the_daemon_too_cannot_open_the_gpu(
    machine: MpsMachine, start: Start
) -> None:
    """The server holds the GPU, and EXCLUSIVE_PROCESS lets no other in."""
    machine.fake.follow_compute_modes(machine.node.modes_path)
    machine.fake.open_exclusive_gpus()
    until(start(machine.node, **machine.config()).fingerprints(), 2)
    eventually(lambda: machine.fake.servers(machine.pipe()))
    facts = opened(machine.fake, {"CUDA_VISIBLE_DEVICES": machine.uuid()})
    assert facts["error"] != 0


def test_top_shows_the_server_as_what_it_is(machine: MpsMachine, start: Start) -> None:
    """Beside the agent, by the daemon's pid file; one of another daemon is nobody's."""
    until(start(machine.node, **machine.config()).fingerprints(), 2)
    eventually(lambda: machine.fake.servers(machine.pipe()))
    (server,) = machine.fake.servers(machine.pipe())
    machine.node.set("gpu 0", "compute_processes", f"{server.pid}:300")
    usage = shown_by_top(machine, machine.root)
    assert usage["mps_servers"] == [{"pid": server.pid, "memory_mib": 300}]
    assert usage["unattributed"] == []
    usage = shown_by_top(machine, machine.root / "other")
    assert usage["mps_servers"] == []
    assert [stray["pid"] for stray in usage["unattributed"]] == [server.pid]


def shown_by_top(machine: MpsMachine, root: Path) -> dict[str, Any]:
    """Who uses the first GPU, as `top` sees it with this `mps.root`."""
    done = subprocess.run(
        [PROGRAM, "top", "--once", "--json", "--vgpus=4", "--sharing=mps", f"--mps-root={root}"],
        env={**os.environ, **machine.node.environment()},
        stdout=subprocess.PIPE,
        check=True,
    )
    gpus = json.loads(done.stdout)["gpus"]
    (usage,) = (gpu["usage"] for gpu in gpus if gpu["uuid"] == machine.uuid())
    assert isinstance(usage, dict)
    return usage


def test_vgpus_of_two_gpus_are_refused(machine: MpsMachine, start: Start) -> None:
    """A process has one MPS server."""
    host = start(machine.node, **machine.config())
    until(host.fingerprints(), 2)
    with pytest.raises(Refused, match="a process has one MPS server: give the job one") as raised:
        host.reserve([*machine.ids(0), *machine.ids(0, gpu=1)])
    assert machine.uuid(0) in str(raised.value)
    assert machine.uuid(1) in str(raised.value)


def test_more_than_a_task_may_have_is_refused_with_the_option(
    machine: MpsMachine, start: Start
) -> None:
    """Both the operator and the job's author read what to change."""
    host = start(machine.node, **machine.config(max_vgpus_per_task=2))
    until(host.fingerprints(), 2)
    assert host.reserve(machine.ids(0, 1))
    with pytest.raises(Refused, match=r"at most 2 \(mps.max_vgpus_per_task\)"):
        host.reserve(machine.ids(0, 1, 2))


@pytest.mark.parametrize(("cuda", "most"), [(13000, 48), (13010, 60)])
def test_a_gpu_has_as_many_vgpus_as_its_server_takes_clients(
    machine: MpsMachine, start: Start, cuda: int, most: int
) -> None:
    """One more, and it is unhealthy with the number that would do; no daemon is started."""
    machine.node.set("driver", "cuda_driver_version", cuda)
    config = machine.config()
    stream = start(machine.node, **{**config, "vgpus": most + 1}).fingerprints()
    groups = stream.next_within(PATIENCE_S)
    assert healthy(groups) == {machine.uuid(0): False, machine.uuid(1): False}
    assert all(f"set vgpus to at most {most}" in reason for reason in reasons(groups))
    assert machine.fake.starts() == []
    assert until(start(machine.node, **{**config, "vgpus": most}).fingerprints(), 2)


def test_a_gpu_that_is_too_old_takes_no_other_along(machine: MpsMachine, start: Start) -> None:
    """It says what would do instead."""
    machine.node.set("gpu 0", "compute_capability", "6.1")
    host = start(machine.node, **machine.config())
    groups = until(host.fingerprints(), 1)
    assert healthy(groups) == {machine.uuid(0): False, machine.uuid(1): True}
    (reason,) = reasons(groups)
    assert "compute capability 6.1, and MPS has limits from 7.0 (Volta) on: set sharing" in reason
    with pytest.raises(Refused, match="Volta"):
        host.reserve(machine.ids(0))
    assert [daemon.pipe for daemon in machine.fake.daemons()] == [str(machine.pipe(1))]
    assert machine.modes() == [DEFAULT, EXCLUSIVE]


@pytest.mark.may_skip("a machine with the real tools cannot do without them")
def test_a_node_without_mps_tools_starts_and_says_so(machine: MpsMachine, start: Start) -> None:
    """Its GPUs are unhealthy with that reason, untouched, and offered once the tools are there."""
    elsewhere = machine.fake.control.rename(machine.fake.control.with_suffix(".not-yet"))
    if shutil.which("nvidia-cuda-mps-control", path=f"{os.environ['PATH']}:{os.defpath}"):
        pytest.skip("the driver's own MPS tools are installed here")
    stream = start(machine.node, **machine.config()).fingerprints()
    groups = stream.next_within(PATIENCE_S)
    assert sum(healthy(groups).values()) == 0
    for reason in reasons(groups):
        assert "nvidia-cuda-mps-control is not in PATH: install the MPS tools" in reason
        assert 'set sharing to "time-slicing"' in reason
    assert not machine.root.exists()
    assert machine.modes() == [DEFAULT, DEFAULT]
    elsewhere.rename(machine.fake.control)
    until(stream, 2)


def test_simulated_gpus_are_shared_so_without_any_daemon(machine: MpsMachine, start: Start) -> None:
    """The same groups, attributes and reservations, to try jobs on."""
    host = start(**{**machine.config(), "simulate": ["h100-80gb-hbm3:2"]})
    groups = host.fingerprints().next_within(PATIENCE_S)
    assert all(healthy(groups).values())
    assert len(groups) == 2
    assert set(attribute(groups, "sharing").values()) == {"mps"}
    assert set(attribute(groups, "memory_isolation").values()) == {"mps"}
    (first, *others) = [i.id for i in groups[0].instances]
    envs = host.reserve([first]).envs
    assert envs["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "25"
    assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT" in envs
    with pytest.raises(Refused, match="one MPS server"):
        host.reserve([first, groups[1].instances[0].id])
    assert len(others) == 3
    assert machine.fake.starts() == []
    assert not machine.root.exists()


def test_the_pipe_is_mounted_where_the_operator_wants_it(machine: MpsMachine, start: Start) -> None:
    """For containers, at the path that the variable names."""
    host = start(machine.node, **machine.config(mount=True))
    until(host.fingerprints(), 2)
    reservation = host.reserve(machine.ids(0))
    pipe = str(machine.pipe())
    assert reservation.mounts == (Mount(pipe, pipe, read_only=False),)
    assert reservation.envs["CUDA_MPS_PIPE_DIRECTORY"] == pipe


def test_mig_devices_and_whole_gpus_are_shared_side_by_side(
    machine: MpsMachine, start: Start
) -> None:
    """Each has its daemon; nothing keeps a process out of a MIG device, so it promises nothing."""
    machine.become("a100_mig")
    groups = until(start(machine.node, **machine.config()).fingerprints(), 3)
    small, other = machine.uuid("mig 0.0"), machine.uuid("mig 0.2")
    assert healthy(groups) == {small: True, other: True, machine.uuid(1): True}
    isolation = {small: "none", other: "none", machine.uuid(1): "mps"}
    assert attribute(groups, "memory_isolation") == isolation
    starts = [start.cuda["CUDA_VISIBLE_DEVICES"] for start in machine.fake.starts()]
    assert sorted(starts) == sorted(isolation)
    assert machine.modes() == [None, EXCLUSIVE] or machine.modes() == [DEFAULT, EXCLUSIVE]


def test_a_mig_device_is_limited_to_its_own_memory(machine: MpsMachine, start: Start) -> None:
    """K of N of the instance, not of the GPU it is cut from."""
    machine.become("a100_mig")
    host = start(machine.node, **machine.config())
    until(host.fingerprints(), 3)
    uuid = machine.uuid("mig 0.0")
    envs = host.reserve([f"{uuid}-{number}" for number in range(3)]).envs
    assert envs["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == f"0={19968 * 3 // 4}M"
    facts = opened(machine.fake, {**envs, "CUDA_VISIBLE_DEVICES": uuid})
    assert (facts["device"], facts["memory_mib"]) == (uuid, 19968 * 3 // 4)


@pytest.mark.parametrize(
    ("profile", "section", "isolation"),
    [("h100x8", "gpu 0", "whole"), ("a100_mig", "mig 0.0", "mig")],
)
def test_what_hardware_holds_is_not_called_less(
    machine: MpsMachine, start: Start, profile: str, section: str, isolation: str
) -> None:
    """One vGPU has nobody beside it."""
    machine.become(profile, 2)
    config = {**machine.config(), "vgpus": 1}
    uuid = machine.uuid(section)
    groups = first_in(
        start(machine.node, **config).fingerprints(),
        lambda groups: healthy(groups).get(uuid, False),
    )
    assert attribute(groups, "memory_isolation")[uuid] == isolation


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_pass_after_pass_costs_nothing_that_stays(machine: MpsMachine, start: Start) -> None:
    """No files, no processes, no messages: the plugin runs for months."""
    host = start(machine.node, **{**machine.config(), "fingerprint_period": "100ms"})
    stream = host.fingerprints()
    until(stream, 2)
    plugin = psutil.Process(host.plugin.process.pid)
    asked = machine.fake.commands

    def passes(count: int) -> None:
        line = "get_default_active_thread_percentage"
        enough = sum(command.line == line for command in asked()) + 2 * count
        eventually(lambda: sum(command.line == line for command in asked()) >= enough)

    passes(3)
    files = plugin.num_fds()
    passes(10)
    assert plugin.num_fds() <= files + 8  # those of a pass under way, on each GPU
    assert len(plugin.children()) <= 2
    ended = {c for c in plugin.children() if _is_zombie(c)}
    eventually(lambda: not ended & set(plugin.children()))  # each is waited for soon
    assert host.logged("warn") == host.logged("error") == []
