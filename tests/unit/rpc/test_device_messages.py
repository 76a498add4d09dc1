# SPDX-License-Identifier: MPL-2.0
"""Devices, reservations and figures as Nomad's messages."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device.fingerprint import Attribute, DeviceGroup, Instance, device_groups
from nomad_nvidia_vgpu.device.reserve import Reservation
from nomad_nvidia_vgpu.device.stats import GpuStats, GroupStats, Stat, group_stats
from nomad_nvidia_vgpu.rpc import device_messages
from nomad_nvidia_vgpu.rpc.generated import device_pb2
from nomad_nvidia_vgpu.sharing.grant import DeviceNode, Mount
from nomad_nvidia_vgpu.sharing.plan import make_plan
from nomad_nvidia_vgpu.state.usage import GpuUse, Usage, VgpuUse
from unit.example_gpus import FULL_SAMPLE, NOON, gpu, inventory

ANY_TEXT = st.text(st.characters(exclude_categories=[])) | st.just("x" * 200 + "|\0\ud800")
NUMBERS = st.integers() | st.floats() | st.integers(-(10**30), 10**30)
ATTRIBUTES = st.builds(
    Attribute, ANY_TEXT | NUMBERS | st.booleans(), st.sampled_from(["", "MiB", "W"])
)
INSTANCES = st.builds(Instance, ANY_TEXT, st.booleans(), ANY_TEXT, pci_bus_id=st.none() | ANY_TEXT)
GROUPS = st.builds(
    DeviceGroup,
    ANY_TEXT,
    ANY_TEXT,
    ANY_TEXT,
    st.lists(INSTANCES, max_size=3).map(tuple),
    st.dictionaries(st.sampled_from(["memory", "model", "mig"]), ATTRIBUTES, max_size=3),
)
STATS = st.builds(
    Stat,
    ANY_TEXT | NUMBERS,
    st.none() | NUMBERS,
    unit=st.sampled_from(["", "MiB", "#"]),
    desc=st.just("what it means"),  # unit and meaning are texts of ours
)
MOMENTS = st.datetimes(timezones=st.just(timezone.utc))
GPU_STATS = st.builds(
    GpuStats,
    STATS,
    st.dictionaries(st.sampled_from(["Temperature", "Memory state"]), STATS),
    MOMENTS,
    st.dictionaries(st.sampled_from(["vGPU memory", "vGPU processes"]), STATS),
)
GROUP_STATS = st.builds(
    GroupStats,
    ANY_TEXT,
    ANY_TEXT,
    ANY_TEXT,
    st.lists(st.tuples(st.lists(ANY_TEXT, max_size=3).map(tuple), GPU_STATS), max_size=3).map(
        tuple
    ),
)


def texts(message: Message) -> list[str]:
    """Gives every text in a message, keys of maps included."""
    found: list[str] = []
    for _field, value in message.ListFields():
        values = list(value.values()) + list(value) if hasattr(value, "values") else [value]
        if not isinstance(value, (str, bytes)) and hasattr(value, "append"):
            values = list(value)
        for inner in values:
            if isinstance(inner, Message):
                found += texts(inner)
            elif isinstance(inner, str):
                found.append(inner)
    return found


def sent(message: Any) -> Any:
    """Gives what arrives at the host, after checking its texts."""
    arrived = type(message).FromString(message.SerializeToString())
    assert not any("\0" in text for text in texts(arrived))
    return arrived


def sent_stats(message: bytes) -> Any:
    """Gives the stats that arrive at the host, after checking their texts."""
    return sent(device_pb2.StatsResponse.FromString(message))


def check_stat(stat: Any) -> None:
    """Checks that a figure has one kind of value, and that JSON could carry it."""
    kinds = [
        stat.HasField("string_val"),
        stat.HasField("int_numerator_val"),
        stat.HasField("float_numerator_val"),
    ]
    assert sum(kinds) == 1
    assert math.isfinite(stat.float_numerator_val.value)
    assert math.isfinite(stat.float_denominator_val.value)


@given(st.lists(GROUPS, max_size=3))
def test_any_groups_can_be_sent(groups: list[DeviceGroup]) -> None:
    """Whatever GPUs are called, the message can be sent and every attribute has a value."""
    arrived = sent(device_messages.fingerprint(groups))
    assert [len(g.devices) for g in arrived.device_group] == [len(g.instances) for g in groups]
    for group in arrived.device_group:
        for attribute in group.attributes.values():
            assert attribute.WhichOneof("value") is not None
            assert math.isfinite(attribute.float_val)


@given(st.lists(GROUP_STATS, max_size=3))
def test_any_stats_can_be_sent(groups: list[GroupStats]) -> None:
    """Whatever a driver reports, each vGPU has a summary, figures and a time, all of them set."""
    for group in sent_stats(device_messages.stats(groups)).groups:
        for stats in group.instance_stats.values():
            assert stats.HasField("summary")
            assert stats.HasField("stats")
            assert stats.HasField("timestamp")
            check_stat(stats.summary)
            for stat in stats.stats.attributes.values():
                check_stat(stat)


@given(st.dictionaries(st.sampled_from(["A", "B"]), ANY_TEXT))
def test_any_reservation_can_be_sent(envs: dict[str, str]) -> None:
    """Every reservation, even an empty one, has its container part and all its variables."""
    arrived = sent(device_messages.reservation(Reservation(envs)))
    assert arrived.HasField("container_res")
    assert set(arrived.container_res.envs) == set(envs)


def test_a_mount_arrives_as_it_is() -> None:
    """Host and task do not change places."""
    mount = Mount("/run/pipe", "/pipe", read_only=True)
    (arrived,) = sent(device_messages.reservation(Reservation({}, (mount,)))).container_res.mounts
    assert (arrived.host_path, arrived.task_path, arrived.read_only) == ("/run/pipe", "/pipe", True)


def test_a_device_file_arrives_as_it_is() -> None:
    """Host, task and permissions do not change places."""
    node = DeviceNode("/run/driver/dev/nvidia0", "/dev/nvidia0", "rw")
    reserved = Reservation({}, (), (node,))
    (arrived,) = sent(device_messages.reservation(reserved)).container_res.devices
    assert (arrived.host_path, arrived.task_path, arrived.permissions) == tuple(node)


def test_a_fingerprint_arrives_as_it_is() -> None:
    """Names, ids, health, places and attributes of a group arrive unchanged."""
    plan = make_plan(PluginConfig(vgpus=2), inventory(gpu("GPU-a")))
    (group,) = device_groups(plan, "letmutx")
    (arrived,) = sent(device_messages.fingerprint([group])).device_group
    assert (arrived.vendor, arrived.device_type, arrived.device_name) == group[:3]
    assert [(d.ID, d.healthy, d.hw_locality.pci_bus_id) for d in arrived.devices] == [
        ("GPU-a-0", True, "0000:07:00.0"),
        ("GPU-a-1", True, "0000:07:00.0"),
    ]
    assert set(arrived.attributes) == set(group.attributes)
    assert (arrived.attributes["memory"].int_val, arrived.attributes["memory"].unit) == (
        23034,
        "MiB",
    )


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (True, "bool_val"),
        (False, "bool_val"),
        (0, "int_val"),
        (0.0, "float_val"),
        ("", "string_val"),
    ],
)
def test_an_attribute_keeps_its_type(value: Any, field: str) -> None:
    """Each type of value has its own place in the message, nothing and false included."""
    group = DeviceGroup("v", "gpu", "n", (), {"fact": Attribute(value)})
    (arrived,) = sent(device_messages.fingerprint([group])).device_group
    assert arrived.attributes["fact"].WhichOneof("value") == field
    assert getattr(arrived.attributes["fact"], field) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**63, -(2**63) - 1, 10**30])
def test_a_number_that_cannot_be_carried_is_left_out(value: float) -> None:
    """An attribute that is no finite number of 64 bits is left out."""
    group = DeviceGroup(
        "v", "gpu", "n", (), {"bad": Attribute(value), "good": Attribute(2**63 - 1)}
    )
    (arrived,) = sent(device_messages.fingerprint([group])).device_group
    assert set(arrived.attributes) == {"good"}


@pytest.mark.parametrize(("bus_id", "known"), [(None, False), ("0000:07:00.0", True)])
def test_an_unknown_place_is_left_out(bus_id: str | None, known: object) -> None:
    """The place of a vGPU is told only where it is known."""
    group = DeviceGroup("v", "gpu", "n", (Instance("i", True, "", bus_id),), {})
    (arrived,) = sent(device_messages.fingerprint([group])).device_group
    assert arrived.devices[0].HasField("hw_locality") is known


def one_stat(stat: Stat) -> Any:
    """Gives a figure as it arrives."""
    figures = GpuStats(stat, {}, NOON)
    group = GroupStats("v", "gpu", "n", ((("id",), figures),))
    return sent_stats(device_messages.stats([group])).groups[0].instance_stats["id"].summary


def test_a_figure_of_two_integers() -> None:
    """A figure out of a total keeps both as integers, with unit and meaning."""
    arrived = one_stat(Stat(3, 8, "MiB", "Memory"))
    assert (arrived.int_numerator_val.value, arrived.int_denominator_val.value) == (3, 8)
    assert (arrived.unit, arrived.desc) == ("MiB", "Memory")
    assert not arrived.HasField("float_numerator_val")


def test_a_figure_without_a_total() -> None:
    """A figure that is out of nothing has no denominator."""
    arrived = one_stat(Stat(0, None, "%"))
    assert arrived.HasField("int_numerator_val")
    assert not arrived.HasField("int_denominator_val")


@pytest.mark.parametrize(("value", "total"), [(0.5, None), (0.5, 8), (3, 8.5)])
def test_a_figure_with_a_fraction(value: float, total: float | None) -> None:
    """A figure with a fraction on either side is a float on both."""
    arrived = one_stat(Stat(value, total))
    assert arrived.float_numerator_val.value == value
    assert arrived.HasField("float_denominator_val") is (total is not None)
    assert not arrived.HasField("int_numerator_val")
    assert not arrived.HasField("int_denominator_val")


@pytest.mark.parametrize(
    "stat",
    [
        Stat(float("nan"), None, "W"),
        Stat(1, float("inf"), "W"),
        Stat(2**63, 5, "W"),
        Stat(1, 10**30),
    ],
)
def test_a_figure_that_cannot_be_carried_is_a_word(stat: Stat) -> None:
    """A figure that is no finite number of 64 bits reads as unavailable, without a unit."""
    arrived = one_stat(stat)
    assert (arrived.string_val.value, arrived.unit) == ("unavailable", "")


def test_the_vgpus_of_a_gpu_show_the_same() -> None:
    """Each vGPU of one GPU has all of that GPU's figures."""
    plan = make_plan(PluginConfig(vgpus=3), inventory(gpu("GPU-a")))
    groups = group_stats(plan, "letmutx", {"GPU-a": FULL_SAMPLE}, NOON)
    message = device_messages.stats(groups)
    response = sent_stats(message)
    assert response.ByteSize() == len(message)  # nothing is in it twice
    (arrived,) = response.groups
    assert set(arrived.instance_stats) == {"GPU-a-0", "GPU-a-1", "GPU-a-2"}
    first, *others = arrived.instance_stats.values()
    assert all(other == first for other in others)
    assert len(first.stats.attributes) == 11
    assert first.timestamp.ToDatetime(timezone.utc) == NOON


def test_what_a_vgpu_uses_itself_stands_beside_the_gpus_figures() -> None:
    """Each vGPU has the figures of its GPU and its own, and its own memory as the summary."""
    plan = make_plan(PluginConfig(vgpus=2), inventory(gpu("GPU-a"), gpu("GPU-b")))
    uses = {
        gpu_uuid: GpuUse(gpu_uuid, 0.0, {f"{gpu_uuid}-1": VgpuUse(mib, 500, 3)}, (), ())
        for gpu_uuid, mib in (("GPU-a", 100), ("GPU-b", 200))
    }
    samples = dict.fromkeys(("GPU-a", "GPU-b"), FULL_SAMPLE)
    groups = group_stats(plan, "letmutx", samples, NOON, Usage(NOON, uses))
    (arrived,) = sent_stats(device_messages.stats(groups)).groups
    for gpu_uuid, mib in (("GPU-a", 100), ("GPU-b", 200)):
        unused, used = (arrived.instance_stats[f"{gpu_uuid}-{number}"] for number in (0, 1))
        assert set(used.stats.attributes) - set(unused.stats.attributes) == {
            "vGPU memory",
            "vGPU processes",
        }
        assert used.stats.attributes["vGPU processes"].int_numerator_val.value == 3
        assert used.summary == used.stats.attributes["vGPU memory"]
        assert used.summary.int_numerator_val.value == mib
        assert used.summary.int_denominator_val.value == 500
        assert unused.summary == unused.stats.attributes["Memory state"]
        assert used.timestamp == unused.timestamp


def test_the_summary_of_a_vgpu_is_no_neighbour_s() -> None:
    """A vGPU whose own memory is not known sums up its GPU, in whatever order they are told."""
    plan = make_plan(PluginConfig(vgpus=2), inventory(gpu("GPU-a")))
    own = {"GPU-a-0": VgpuUse(100, 500, 3), "GPU-a-1": VgpuUse(None, None, 3)}
    usage = Usage(NOON, {"GPU-a": GpuUse("GPU-a", 0.0, own, (), ())})
    (group,) = group_stats(plan, "letmutx", {"GPU-a": FULL_SAMPLE}, NOON, usage)
    for entries in (group.gpus, group.gpus[::-1]):
        message = device_messages.stats([group._replace(gpus=entries)])
        (arrived,) = sent_stats(message).groups
        known, unknown = (arrived.instance_stats[f"GPU-a-{number}"] for number in (0, 1))
        assert known.summary == known.stats.attributes["vGPU memory"]
        assert unknown.summary == unknown.stats.attributes["Memory state"]


def test_a_clock_before_the_epoch_is_the_epoch() -> None:
    """A node whose clock is not set yet stamps its figures with the epoch."""
    before = datetime(1970, 1, 1, tzinfo=timezone.utc) - timedelta(days=1)
    group = GroupStats("v", "gpu", "n", ((("id",), GpuStats(Stat("x"), {}, before)),))
    arrived = sent_stats(device_messages.stats([group])).groups[0].instance_stats["id"]
    assert arrived.HasField("timestamp")
    assert arrived.timestamp.seconds == 0


@pytest.mark.parametrize(
    ("seconds", "nanos", "asked"),
    [
        (0, 0, 0.0),
        (1, 0, 1.0),
        (0, 10_000_000, 0.01),
        (1, 500_000_000, 1.5),
        (-1, 0, 0.0),
        (0, -1, 0.0),
        (10**11, 0, 0.0),
    ],
)
def test_the_interval_of_a_request(seconds: int, nanos: int, asked: float) -> None:
    """An interval is its seconds, or none where it makes no sense."""
    request = device_pb2.StatsRequest()
    request.collection_interval.seconds = seconds
    request.collection_interval.nanos = nanos
    assert device_messages.interval_s(request) == pytest.approx(asked)


def test_a_request_without_an_interval() -> None:
    """Hosts that send no interval are taken to ask for none."""
    assert device_messages.interval_s(device_pb2.StatsRequest()) == 0.0


def test_a_meaning_with_a_nul_arrives_without() -> None:
    """Text that no host's C code could carry does not cost the figure."""
    arrived = one_stat(Stat(3, None, "M\0iB", "Mem\0ory \ud800"))
    assert (arrived.unit, arrived.desc) == ("MiB", "Memory ?")
