# SPDX-License-Identifier: MPL-2.0
"""Fingerprint, Reserve and Stats while GPUs fail, hang, vanish and come back."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from libnvidia_ml.driver import FakeDriver

from nomad_nvidia_vgpu.rpc.client import Refused, StatsOfGroups

from .conftest import PATIENCE_S, Start, Started, fact
from .fingerprints import first_figures, first_in, healthy, reasons, silent, until

GPU_IS_LOST = 15
DRIVER_NOT_LOADED = 9

OFFICIAL_FIGURES = {
    "Power usage": "W",
    "GPU utilization": "%",
    "Memory utilization": "%",
    "Encoder utilization": "%",
    "Decoder utilization": "%",
    "Temperature": "C",
    "Memory state": "MiB",
    "BAR1 buffer state": "MiB",
    "ECC L1 errors": "#",
    "ECC L2 errors": "#",
    "ECC memory errors": "#",
}


def test_a_lost_gpu_stays_published_unhealthy_and_comes_back(
    node: FakeDriver, start: Start
) -> None:
    """With its last attributes, a reason and a remedy, while the seven others keep serving."""
    node.load("h100x8")
    stream = start(node, vgpus=2).fingerprints()
    before = until(stream, 8)
    uuid = fact(node, "gpu 3", "uuid")
    node.set("gpu 3", "lost", "1")
    during = until(stream, 7)
    assert healthy(during)[uuid] is False
    assert len(during[0].instances) == 16
    (reason,) = reasons(during)
    assert uuid in reason
    assert "reboot" in reason
    assert during[0].attributes["healthy_instances"].value == 14
    assert during[0].attributes["memory"] == before[0].attributes["memory"]
    node.clear("gpu 3", "lost")
    assert until(stream, 8) == before


def test_a_gpu_lost_from_the_start_does_not_hide_the_others(node: FakeDriver, start: Start) -> None:
    """It cannot say who it is, so it is named in the log, once."""
    node.load("lost")
    host = start(node, vgpus=2)
    until(host.fingerprints(), 7)
    assert len(host.logged_in_all("warn", "cannot be used")) == 1


def test_a_hung_driver_call_takes_one_gpu_away_and_nothing_else(
    node: FakeDriver, start: Start
) -> None:
    """The first answer does not wait for it for ever; Reserve, stats and Shutdown go on."""
    node.load("h100x8")
    node.set("gpu 5", "hang.nvmlDeviceGetMemoryInfo", "1")
    host = start(node, vgpus=2)
    until(host.fingerprints(), 7)
    other = f"{fact(node, 'gpu 0', 'uuid')}-0"
    assert host.reserve([other]).envs["NVIDIA_VISIBLE_DEVICES"] == fact(node, "gpu 0", "uuid")
    assert other in next(host.stats(0.1))["NVIDIA H100 80GB HBM3"]
    assert host.end() == 0


def test_a_gpu_that_hangs_later_is_unhealthy_and_is_back_when_the_call_returns(
    node: FakeDriver, start: Start
) -> None:
    """Its thread is given up, not replaced."""
    node.load("h100x8")
    stream = start(node, vgpus=1).fingerprints()
    until(stream, 8)
    node.set("gpu 2", "hang.nvmlDeviceGetName", "1")
    during = until(stream, 7)
    assert any("does not answer" in reason for reason in reasons(during))
    node.clear("gpu 2", "hang.nvmlDeviceGetName")
    until(stream, 8)


def test_a_driver_that_is_unloaded_and_loaded_is_found_again(
    node: FakeDriver, start: Start
) -> None:
    """Every GPU says why meanwhile; the log says it once, not once per look."""
    node.load("h100x8")
    host = start(node, vgpus=1)
    stream = host.fingerprints()
    until(stream, 8)
    node.set("driver", "init_error", str(DRIVER_NOT_LOADED))  # concerns the next session
    node.set("driver", "fault.nvmlDeviceGetCount_v2", str(DRIVER_NOT_LOADED))
    during = until(stream, 0)
    assert all("modprobe nvidia" in reason for reason in reasons(during))
    time_to_repeat = host.fingerprints()  # a second stream sees the same
    assert healthy(next(time_to_repeat)) == healthy(during)
    node.clear("driver", "fault.nvmlDeviceGetCount_v2")
    node.clear("driver", "init_error")
    until(stream, 8)
    said = host.logged_in_all("warn", "GPUs of this node cannot be used")
    assert len(said) == 1


def test_without_a_library_the_stream_lives_and_the_log_says_what_to_do(start: Start) -> None:
    """A node may get its driver after its agent."""
    host = start(vgpus=2)
    stream = host.fingerprints()
    assert next(stream) == ()
    assert silent(stream, (), 0.5)
    (warning,) = host.logged_in_all("warn", "GPUs of this node cannot be used")
    assert host.logged("warn") == [warning]
    assert "install the NVIDIA driver" in warning
    assert "--simulate l4" in warning
    assert "simulate" in warning


def test_nothing_is_sent_while_nothing_changes(node: FakeDriver, start: Start) -> None:
    """Before Nomad 1.11.2 each message costs the cluster a Raft write."""
    node.load("h100x8")
    stream = start(node, vgpus=1).fingerprints()
    known = until(stream, 8)
    looked = node.calls()["nvmlDeviceGetName"]
    node.set("gpu 0", "temperature_c", "77")
    node.set("gpu 0", "power_usage_mw", "650000")
    deadline = time.monotonic() + PATIENCE_S
    while node.calls()["nvmlDeviceGetName"] < looked + 24:
        assert time.monotonic() < deadline
        time.sleep(0.02)  # between two reads of another process's calls
    assert silent(stream, known, 0.3)


def test_a_destroyed_mig_device_leaves(node: FakeDriver, start: Start) -> None:
    """Its UUID never comes back, so nobody waits for it."""
    node.load("a100_mig")
    stream = start(node, vgpus=1).fingerprints()
    before = healthy(until(stream, 3))
    gone = fact(node, "mig 0.2", "uuid")
    node.remove_section("mig 0.2")
    assert set(healthy(until(stream, 2))) == set(before) - {gone}


def test_a_reservation_names_the_share(node: FakeDriver, start: Start) -> None:
    """Each GPU once and sorted; budgets follow the number of vGPUs granted."""
    node.load("h100x8")
    host = start(
        node,
        vgpus=4,
        visible_devices_envs=["NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"],
    )
    until(host.fingerprints(), 8)
    first, second = sorted(fact(node, f"gpu {i}", "uuid") for i in (0, 1))
    envs = host.reserve([f"{second}-2", f"{first}-3", f"{second}-0", f"{second}-0"]).envs
    assert envs == {
        "NVIDIA_VISIBLE_DEVICES": f"{first},{second}",
        "CUDA_VISIBLE_DEVICES": f"{first},{second}",
        "NVIDIA_VGPU_IDS": f"{first}-3,{second}-0,{second}-2",
        "NVIDIA_VGPU_BUDGETS": f"{first}={81559 // 4},{second}={81559 // 2}",
        "NVIDIA_VGPU_MEMORY_MIB": str(81559 // 4),
        "NVIDIA_VGPU_GROUP": "letmutx/gpu/NVIDIA H100 80GB HBM3",
    }


def test_a_reservation_waits_for_a_plugin_that_has_just_started(
    node: FakeDriver, start: Start
) -> None:
    """After a crash of ours Nomad reserves at once, and a refusal fails the allocation for good."""
    node.load("h100x8")
    node.set("driver", "slow.nvmlDeviceGetCount_v2", "500")
    uuid = fact(node, "gpu 0", "uuid")
    assert start(node, vgpus=2).reserve([f"{uuid}-1"]).envs["NVIDIA_VISIBLE_DEVICES"] == uuid


def test_unknown_and_ignored_ids_are_refused_by_name(node: FakeDriver, start: Start) -> None:
    """The task's event must say which, and all of them."""
    node.load("h100x8")
    ignored = fact(node, "gpu 0", "uuid")
    host = start(node, vgpus=2, ignored_gpu_ids=[ignored])
    until(host.fingerprints(), 7)
    known = fact(node, "gpu 1", "uuid")
    with pytest.raises(Refused) as refused:
        host.reserve([f"{known}-0", f"{known}-2", f"{ignored}-0", "nonsense"])
    for named in (f"{known}-2", f"{ignored}-0", "nonsense"):
        assert named in refused.value.text
    assert f"{known}-0" not in refused.value.text


def test_a_gpu_that_died_after_placement_is_refused_with_its_reason(
    node: FakeDriver, start: Start
) -> None:
    """Better a task event now than a CUDA error in the task."""
    node.load("h100x8")
    host = start(node, vgpus=2)
    stream = host.fingerprints()
    until(stream, 8)
    node.set("gpu 4", "lost", "1")
    until(stream, 7)
    with pytest.raises(Refused, match=r"unhealthy .*[Ll]ost"):
        host.reserve([f"{fact(node, 'gpu 4', 'uuid')}-1"])


def test_stats_show_the_eleven_figures_with_their_units(node: FakeDriver, start: Start) -> None:
    """Draw in watts out of the limit, and memory without the driver's own part."""
    node.load("h100x8")
    node.set("gpu 0", "memory_used_mib", "4096")
    node.set("gpu 0", "power_usage_mw", "356789")
    host = start(node, vgpus=2)
    until(host.fingerprints(), 8)
    ((name, instances),) = first_figures(host).items()
    assert name == "NVIDIA H100 80GB HBM3"
    assert len(instances) == 16
    vgpu = instances[f"{fact(node, 'gpu 0', 'uuid')}-1"]
    assert {figure: stat.unit for figure, stat in vgpu.stats.items()} == OFFICIAL_FIGURES
    assert vgpu.stats["Power usage"][:2] == (356, 700)
    assert vgpu.summary[:3] == (4096, 81559, "MiB")
    assert abs(vgpu.taken_at_s - time.time()) < 600  # an epoch, not a process's age


def test_stats_come_every_interval_and_a_dead_gpu_is_unavailable(
    node: FakeDriver, start: Start
) -> None:
    """Every published vGPU is in every message, or the agent logs an error for each."""
    node.load("h100x8")
    host = start(node, vgpus=1)
    stream = host.fingerprints()
    until(stream, 8)
    stats = host.stats(0.1)
    vgpu = f"{fact(node, 'gpu 6', 'uuid')}-0"
    first_in(stats, lambda groups: all(i[vgpu].stats for i in groups.values()))
    node.set("gpu 6", "lost", "1")
    until(stream, 7)
    messages: list[StatsOfGroups] = []  # those that were under way by then still have figures

    def dead_now(groups: StatsOfGroups) -> bool:
        messages.append(groups)
        (instances,) = groups.values()
        return instances[vgpu].summary.value == "unavailable"

    (instances,) = first_in(stats, dead_now).values()
    assert all(len(every) == 8 for groups in messages for every in groups.values())
    dead = instances[vgpu]
    assert dead.stats == {}
    assert dead.taken_at_s > 0


def test_an_interval_of_zero_means_a_second(start: Start) -> None:
    """Nomad 0.9.0 to 0.9.5 sends 0."""
    host = start(vgpus=1, simulate=["t4"])
    next(host.fingerprints())
    began = time.monotonic()  # before the first is sent, so that a late reader sees no less
    stats = host.stats(0.0)
    for _ in range(3):
        stats.next_within(PATIENCE_S)
    assert time.monotonic() - began >= 1.9


@pytest.mark.parametrize("vgpus", [1, 64])
def test_one_pass_of_nvml_serves_all_vgpus_and_streams(
    node: FakeDriver, start: Start, vgpus: int
) -> None:
    """Polling per vGPU or per stream would burn a core."""
    node.load("h100x8")
    host = start(node, vgpus=vgpus, fingerprint_period="1h")
    until(host.fingerprints(), 8)
    streams = [host.stats(0.2) for _ in range(3)]
    for stream in streams:
        next(stream)
    began = time.monotonic()
    node.forget_calls()
    for _ in range(10):
        for stream in streams:
            next(stream)
    temperatures = node.calls()["nvmlDeviceGetTemperature"] / 8
    passes = (time.monotonic() - began) / 0.2
    assert temperatures <= passes + 2


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(ids=st.lists(st.text(max_size=300), max_size=6))
def test_any_strings_as_ids_are_refused_or_granted(simulated: Started, ids: list[str]) -> None:
    """A crash in Reserve would restart the plugin under all running tasks."""
    sendable = [text.encode("utf-8", "replace").decode() for text in ids]
    with pytest.raises(Refused):
        simulated.reserve(sendable)
    assert simulated.info().name == "nvidia-vgpu"


@pytest.fixture
def simulated(start: Start) -> Started:
    """One plugin for all examples."""
    host = start(vgpus=2, simulate=["t4"])
    next(host.fingerprints())
    return host
