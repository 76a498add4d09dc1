# SPDX-License-Identifier: MPL-2.0
"""PluginInfo, ConfigSchema and SetConfig of the installed program."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from libnvidia_ml.driver import FakeDriver

from nomad_nvidia_vgpu.rpc.client import Refused

from .conftest import Start, Started
from .fingerprints import silent


def test_it_says_who_it_is(start: Start) -> None:
    """Of two plugins of one name the higher version wins, and the original is 0.1.0."""
    info = start().info()
    assert info.name == "nvidia-vgpu"
    assert tuple(int(part) for part in info.version.split(".")) > (0, 1, 0)
    assert info.api_versions == ("v0.1.0",)


def test_the_schema_names_every_option_with_its_type(start: Start) -> None:
    """Nomad checks the operator's block against it; the four of the original are among them."""
    assert start().schema() == {
        "enabled": "bool",
        "vgpus": "number",
        "vgpu_memory": "string",
        "ignored_gpu_ids": "list(string)",
        "fingerprint_period": "string",
        "vendor": "string",
        "memory_overcommit": "number",
        "memory_isolation": "string",
        "mps.priority": "string",
        "unified_memory_reserve": "string",
        "group_by": "string",
        "publish_load": "bool",
        "publish_load_interval": "string",
        "sharing": "string",
        "visible_devices_envs": "list(string)",
        "device_nodes": "string",
        "cdi_spec_dirs": "list(string)",
        "framework_hints": "list(string)",
        "framework_headroom": "string",
        "metrics_address": "string",
        "simulate": "list(string)",
        "log_level": "string",
        'gpu "…".vgpus': "number",
        'gpu "…".vgpu_memory': "string",
        'gpu "…".memory_overcommit': "number",
        'gpu "…".mps_priority': "string",
        'gpu "…".sharing': "string",
        'gpu "…".group_by': "string",
        'gpu "…".ignored': "bool",
        'gpu "…".name': "string",
        "mps.root": "string",
        "mps.memory_limit": "bool",
        "mps.compute_limit": "bool",
        "mps.max_vgpus_per_task": "number",
        "mps.mount": "bool",
        "mps.exclusive_process": "bool",
        "mps.multi_user": "bool",
        "memory_guard.action": "string",
        "memory_guard.grace": "string",
        "memory_guard.tolerance_percent": "number",
        "health.fatal_xids": "list(number)",
        "health.ignored_xids": "list(number)",
        "health.recovery_period": "string",
        "health.end_tasks": "bool",
    }


def test_the_first_two_launches_touch_no_driver(node: FakeDriver, start: Start) -> None:
    """Three starts per agent start: NVML costs seconds on a cold GPU and is wanted in one."""
    node.load("h100x8")
    first = start(node)
    first.info()
    first.schema()
    first.stop()
    second = start(node, vgpus=2)
    second.set_config({"vgpus": 2})
    second.stop()
    assert node.calls().total() == 0
    third = start(node, vgpus=2)
    next(third.fingerprints())
    assert node.calls()["nvmlInitWithFlags"] == 1


@pytest.mark.parametrize("spelling", [4, 4.0, "4"])
def test_numbers_may_come_in_three_forms(start: Start, spelling: object) -> None:
    """Nomad sends a number as int, float or string."""
    host = start(vgpus=spelling, simulate=["t4"])
    (group,) = next(host.fingerprints())
    assert len(group.instances) == 4


def test_all_problems_come_in_one_error(start: Start) -> None:
    """The operator fixes a config once, not once per mistake."""
    with pytest.raises(Refused) as refused:
        start(
            vgpus=0,
            fingerprint_period="soon",
            group_by="rack",
            vendor="a/b",
            simulate=["t4:1", "voodoo2"],
            log_level="loud",
            visible_devices_envs=["A B"],
        )
    text = refused.value.text
    for said in (
        "vgpus must be a whole number from 1 to 256, got 0",
        "fingerprint_period must be a duration of at least 100ms",
        'group_by must be "model" or "gpu", got "rack"',
        "vendor must be",
        'got "voodoo2"',
        "log_level must be",
        "visible_devices_envs entries must be",
    ):
        assert said in text


def test_options_without_a_size_are_refused(start: Start) -> None:
    """An operator who wrote something and forgot vgpus wants to know."""
    with pytest.raises(Refused, match="vgpus and vgpu_memory are both missing"):
        start(ignored_gpu_ids=["GPU-1"])


def test_no_config_at_all_publishes_nothing_and_warns_once(start: Start) -> None:
    """Nomad up to 1.9 starts every file in plugin_dir, and a refusal would stop the agent."""
    host = start()
    host.set_config({})
    host.set_config({})
    assert next(host.fingerprints()) == ()
    (warning,) = host.logged_in_all("warn", "vgpus")
    assert host.logged("warn") == [warning]


def test_disabled_publishes_nothing_and_keeps_the_stream(node: FakeDriver, start: Start) -> None:
    """A stream that ends would take the plugin away for good."""
    node.load("h100x8")
    host = start(node, enabled=False)
    stream = host.fingerprints()
    assert next(stream) == ()
    assert silent(stream, (), 0.5)
    assert node.calls().total() == 0


@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    data=st.binary(max_size=200)
    | st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
        ),
        max_leaves=8,
    ).map(msgpack.packb)
)
def test_any_bytes_as_config_are_taken_or_refused(shared: Started, data: bytes) -> None:
    """A crash in SetConfig would keep the agent from starting, without a sentence."""
    answer: Refused | None = None
    try:
        shared.set_config_bytes(data)
    except Refused as refused:
        answer = refused
    assert answer is None or (answer.code.name == "INVALID_ARGUMENT" and answer.text)
    assert shared.info().name == "nvidia-vgpu"


@pytest.fixture
def shared(start: Start) -> Started:
    """One plugin for all examples: none of them may end it."""
    return start()
