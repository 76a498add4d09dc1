# SPDX-License-Identifier: MPL-2.0
"""From Nomad's msgpack to a config."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.config.decode import decode, decode_msgpack, unknown_options
from nomad_nvidia_vgpu.config.options import (
    GpuBlock,
    GpuConfig,
    HealthConfig,
    MemoryGuardConfig,
    MpsConfig,
    PluginConfig,
    options,
)
from nomad_nvidia_vgpu.errors import ConfigError
from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus

NAMES = [option.name for option in options()]

FULL: dict[str, Any] = {
    "enabled": True,
    "vgpus": 16,
    "gpu": {
        "NVIDIA L4*": {"vgpu_memory": "10GiB", "sharing": "mps", "name": "small"},
        "GPU-c": {"vgpus": 4, "group_by": "gpu", "ignored": True, "name": None},
    },
    "ignored_gpu_ids": ["GPU-a", "MIG-b"],
    "fingerprint_period": "30s",
    "vendor": "nvidia",
    "group_by": "gpu",
    "memory_overcommit": 1.5,
    "unified_memory_reserve": "8GiB",
    "publish_load": True,
    "publish_load_interval": "30s",
    "visible_devices_envs": ["CUDA_VISIBLE_DEVICES"],
    "device_nodes": "cdi",
    "memory_isolation": "cgroup",
    "cdi_spec_dirs": ["/srv/cdi"],
    "framework_hints": ["pytorch", "jax"],
    "framework_headroom": "1GiB",
    "metrics_address": "[::1]:9400",
    "simulate": ["l4:2"],
    "log_level": "debug",
    "sharing": "mps",
    "mps": {
        "root": "/srv/mps",
        "memory_limit": False,
        "compute_limit": False,
        "max_vgpus_per_task": 2,
        "mount": True,
        "exclusive_process": False,
        "multi_user": False,
    },
    "memory_guard": {"action": "kill", "grace": "90s", "tolerance_percent": 10},
    "health": {
        "fatal_xids": [13],
        "ignored_xids": [79, 48],
        "recovery_period": "5s",
        "end_tasks": True,
    },
}
FULL_CONFIG = PluginConfig(
    enabled=True,
    vgpus=16,
    gpu=(
        GpuBlock("NVIDIA L4*", GpuConfig(vgpu_memory_mib=10240, sharing="mps", name="small")),
        GpuBlock("GPU-c", GpuConfig(vgpus=4, group_by="gpu", ignored=True)),
    ),
    ignored_gpu_ids=("GPU-a", "MIG-b"),
    fingerprint_period_s=30.0,
    vendor="nvidia",
    group_by="gpu",
    memory_overcommit=1.5,
    unified_memory_reserve_mib=8192,
    publish_load=True,
    publish_load_interval_s=30.0,
    visible_devices_envs=("CUDA_VISIBLE_DEVICES",),
    device_nodes="cdi",
    memory_isolation="cgroup",
    cdi_spec_dirs=("/srv/cdi",),
    framework_hints=("pytorch", "jax"),
    framework_headroom_mib=1024,
    metrics_address="[::1]:9400",
    simulate=(SimulatedGpus("l4", 2),),
    log_level="debug",
    sharing="mps",
    mps=MpsConfig(
        root="/srv/mps",
        memory_limit=False,
        compute_limit=False,
        max_vgpus_per_task=2,
        mount=True,
        exclusive_process=False,
        multi_user=False,
    ),
    memory_guard=MemoryGuardConfig("kill", 90.0, 10),
    health=HealthConfig((13,), (79, 48), recovery_period_s=5.0, end_tasks=True),
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from([value for value in FULL.values() if not isinstance(value, (list, dict))])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.integers(-9, 9), inner, max_size=3)
    ),
    max_leaves=8,
)
CONFIGS = st.dictionaries(
    st.sampled_from(NAMES) | st.text(max_size=8) | st.integers(0, 9), VALUES, max_size=9
)


def config_or_problems(given_bytes: bytes) -> PluginConfig | ConfigError:
    """Gives what the bytes decode to; any other exception is the caller's failure."""
    try:
        return decode_msgpack(given_bytes)
    except ConfigError as error:
        return error


@given(st.binary(max_size=120))
def test_any_bytes_are_a_config_or_a_config_error(data: bytes) -> None:
    """No bytes make the decoder fail in another way than with a ConfigError."""
    assert isinstance(config_or_problems(data), (PluginConfig, ConfigError))


@given(CONFIGS, st.integers(0, 200), st.integers(0, 255))
def test_a_damaged_config_is_a_config_or_a_config_error(
    config: dict[Any, Any], where: int, byte: int
) -> None:
    """A byte flipped in a config makes no other failure than a ConfigError."""
    data = bytearray(msgpack.packb(config))
    data[where % len(data)] = byte
    assert isinstance(config_or_problems(bytes(data)), (PluginConfig, ConfigError))


@given(CONFIGS)
def test_any_map_is_a_config_or_sentences(config: dict[Any, Any]) -> None:
    """Every map is a config in range, or a ConfigError whose sentences begin with an option."""
    found = config_or_problems(msgpack.packb(config))
    if isinstance(found, PluginConfig):
        assert found.vgpus is None or 1 <= found.vgpus <= 256
        assert found.fingerprint_period_s >= 0.1
    else:
        assert found.problems
        assert all(problem.split(" ")[0].split(".")[0] in NAMES for problem in found.problems)


@pytest.mark.parametrize("value", [b"\xc1", b"\x81", b"\xa5ab", b"\x81\x91\xc0\xc0", b"\x01\x02"])
def test_bytes_that_are_no_msgpack_say_so(value: bytes) -> None:
    """Bytes that are not msgpack are refused as such, with whose fault it is."""
    with pytest.raises(ConfigError, match=r"not valid msgpack .*do not fit together"):
        decode_msgpack(value)


@pytest.mark.parametrize("value", [[], 5, "text", True])
def test_a_config_must_be_a_map(value: object) -> None:
    """Valid msgpack that is no map is refused with the value."""
    with pytest.raises(ConfigError, match=r"must be a map of options, got "):
        decode_msgpack(msgpack.packb(value))


def test_every_option_is_read() -> None:
    """A config in which all options are given holds all of them."""
    assert decode_msgpack(msgpack.packb(FULL)) == FULL_CONFIG


@given(st.integers(1, 256), st.sampled_from([int, float, str, lambda n: f"{n}.0"]))
def test_numbers_survive_every_encoding(vgpus: int, encode: Any) -> None:
    """A valid config is the same whether its number came as int, float or numeric string."""
    data = msgpack.packb({**FULL, "vgpus": encode(vgpus)})
    found = decode_msgpack(data)
    assert found.vgpus == vgpus
    assert type(found.vgpus) is int


@given(st.integers(1, 256))
def test_numbers_survive_single_precision(vgpus: int) -> None:
    """A number that was packed as a 32-bit float is the same number."""
    data = msgpack.packb({"vgpus": float(vgpus)}, use_single_float=True)
    assert decode_msgpack(data).vgpus == vgpus


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x80"], ids=["nothing", "nil", "empty map"])
def test_an_empty_config_is_unconfigured(data: bytes) -> None:
    """A config block in which nothing is given is accepted and publishes nothing."""
    config = decode_msgpack(data)
    assert config == PluginConfig()
    assert not config.configured


def test_nil_means_not_given() -> None:
    """Options that are all nil, as Nomad sends those left out, are the empty config."""
    assert decode_msgpack(msgpack.packb(dict.fromkeys(NAMES))) == PluginConfig()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "vgpus"])
def test_nil_keeps_the_default_beside_given_options(name: str) -> None:
    """An option that is nil has its default, whatever else is given."""
    assert decode({"vgpus": 4, name: None}) == PluginConfig(vgpus=4)


def test_unknown_options_are_ignored() -> None:
    """Options that we do not have, and keys that are no text, change nothing."""
    assert decode({"vgpus": 4, "nonsense": 1, 5: "x", None: 1}) == PluginConfig(vgpus=4)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("vgpus", "vgpu_memory", "enabled", "gpu")]
)
def test_anything_given_demands_vgpus(name: str) -> None:
    """A config that gives anything but no size is refused by a sentence that begins with vgpus."""
    with pytest.raises(ConfigError, match=r"^vgpus and vgpu_memory are both missing: set one"):
        decode({name: FULL[name]})


def test_enabled_alone_demands_vgpus() -> None:
    """Saying `enabled = true` without a size is refused."""
    with pytest.raises(ConfigError, match=r"^vgpus and vgpu_memory are both missing"):
        decode({"enabled": True})


@pytest.mark.parametrize("rest", [{}, {"vendor": "nvidia"}, {"vgpus": None, "simulate": ["l4"]}])
def test_a_plugin_that_is_off_needs_no_vgpus(rest: dict[str, Any]) -> None:
    """With `enabled = false` a size may be missing, whatever else is given."""
    assert not decode({"enabled": False, **rest}).enabled


def test_all_problems_are_reported_together() -> None:
    """A config that is wrong everywhere is refused once, with one sentence per option."""
    with pytest.raises(ConfigError) as refused:
        decode(dict.fromkeys(NAMES, 99.5))
    assert [problem.split(" ")[0] for problem in refused.value.problems] == NAMES


def test_a_missing_size_is_reported_beside_other_problems() -> None:
    """That vgpus is missing is said in the same refusal as what else is wrong."""
    with pytest.raises(ConfigError) as refused:
        decode({"vendor": "a b", "fingerprint_period": "1 minute"})
    said = [problem.split(" ")[0] for problem in refused.value.problems]
    assert sorted(said) == ["fingerprint_period", "vendor", "vgpus"]


@pytest.mark.parametrize("vgpus", [0, 257, "many", True])
def test_a_wrong_size_is_reported_once(vgpus: object) -> None:
    """A size that is given but wrong is not reported as missing, too."""
    with pytest.raises(ConfigError) as refused:
        decode({"vgpus": vgpus})
    assert len(refused.value.problems) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vendor", "a/b"),
        ("vendor", ""),
        ("vendor", "a" * 65),
        ("group_by", "uuid"),
        ("visible_devices_envs", []),
        ("visible_devices_envs", ["A=B"]),
        ("ignored_gpu_ids", ["GPU-a,GPU-b"]),
        ("ignored_gpu_ids", [""]),
        ("metrics_address", ":9400"),
        ("simulate", ["l5"]),
        ("log_level", "warning"),
        ("fingerprint_period", "99ms"),
    ],
)
def test_a_wrong_value_is_refused_with_option_and_value(name: str, value: Any) -> None:
    """The refusal of one wrong value names the option and nothing else."""
    with pytest.raises(ConfigError, match=f"^{name} ") as refused:
        decode({"vgpus": 1, name: value})
    assert len(refused.value.problems) == 1


def test_unknown_options_of_a_file_are_named() -> None:
    """For files that Nomad has not checked, an unknown option is named with the one it is like."""
    assert unknown_options({"vgpus": 1}) == []
    (problem,) = unknown_options({"vgpus": 1, "vgpu": 2})
    assert problem == "vgpu is not an option of this plugin: did you mean vgpus?"
    (problem,) = unknown_options({"vgpus": 1, "zzz": 2})
    assert problem.startswith("zzz is not an option of this plugin: there are ")
    assert all(name in problem for name in NAMES)


def test_unknown_options_in_a_block_are_named() -> None:
    """An unknown option inside a block is named with its path, and the block's own options."""
    assert unknown_options({"health": {"end_tasks": True}}) == []
    (problem,) = unknown_options({"health": {"end_task": True}})
    assert problem.endswith("did you mean end_tasks?")
    (problem,) = unknown_options({"health": {"zzz": True}})
    assert problem.startswith("health.zzz is not an option of this plugin: there are ")
    assert "end_tasks" in problem
    assert "vgpus" not in problem


def test_an_option_of_a_block_is_not_written_with_a_dot() -> None:
    """As docs and errors name it: the sentence shows how it is written."""
    (problem,) = unknown_options({"mps.root": "/run/x"})
    assert problem == "mps.root is not an option of this plugin: write mps { root = … }"


def test_a_wrong_value_in_a_block_is_refused_with_its_path() -> None:
    """Each wrong option inside a block is named with the block's name before it."""
    with pytest.raises(ConfigError) as refused:
        decode({"vgpus": 1, "health": {"fatal_xids": [0], "recovery_period": "1d"}})
    said = [problem.split(" ")[0] for problem in refused.value.problems]
    assert said == ["health.fatal_xids", "health.recovery_period"]


@pytest.mark.parametrize("value", ["on", 5, True, [{"end_tasks": True}]])
def test_only_a_block_is_a_block(value: object) -> None:
    """A value where a block belongs is refused."""
    with pytest.raises(ConfigError, match=r"^health must be a block, got "):
        decode({"vgpus": 1, "health": value})


def test_nil_in_a_block_keeps_the_defaults() -> None:
    """Options of a block that are nil, as Nomad sends those left out, have their defaults."""
    nothing = dict.fromkeys(("fatal_xids", "ignored_xids", "recovery_period", "end_tasks"))
    assert decode({"vgpus": 1, "health": nothing}) == PluginConfig(vgpus=1)


def test_an_xid_cannot_be_fatal_and_ignored() -> None:
    """An XID in both lists is refused by its number."""
    both = {"fatal_xids": [13, 31, 8], "ignored_xids": ["31", 13.0]}
    with pytest.raises(ConfigError, match=r"both name XID 13, 31: take it out of one$"):
        decode({"vgpus": 1, "health": both})


@pytest.mark.parametrize("depth", [600, 5000, 100_000])
@pytest.mark.parametrize("before", [b"", b"\x81\xa6vendor"])
def test_deep_nesting_is_a_config_error(before: bytes, depth: int) -> None:
    """Msgpack nested deeper than anyone would write is refused like any other damage."""
    with pytest.raises(ConfigError):
        decode_msgpack(before + b"\x91" * depth + b"\xc0")


def test_a_huge_config_is_refused_before_it_is_read() -> None:
    """Half a million blocks cost nothing, and the sentence says how large it is."""
    huge = msgpack.packb({"vgpus": 1, "vendor": "x" * (1 << 18)})
    with pytest.raises(ConfigError, match=rf"has {len(huge)} bytes"):
        decode_msgpack(huge)


def test_lengths_that_are_only_declared_reserve_no_memory() -> None:
    """A list that says it has a billion entries, in a list that says so too, and so on."""
    with pytest.raises(ConfigError, match="not valid msgpack"):
        decode_msgpack(b"\xdd\x3b\x9a\xca\x00" * 500)


def test_a_duration_without_end_is_not_parsed() -> None:
    """A second a million times takes hundreds of MiB to add up."""
    with pytest.raises(ConfigError, match=r"^fingerprint_period must be a duration"):
        decode({"vgpus": 1, "fingerprint_period": "1s" * 33})


@pytest.mark.parametrize("vgpus", ["1_6", " 16 ", "16\n", "\u0661\u0666", "+ 1"])
def test_numbers_that_only_python_reads_are_refused(vgpus: str) -> None:
    """A size in a form that Nomad itself would not read is refused."""
    with pytest.raises(ConfigError, match=r"^vgpus must be a whole number"):
        decode({"vgpus": vgpus})
