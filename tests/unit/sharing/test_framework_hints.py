# SPDX-License-Identifier: MPL-2.0
"""What frameworks are told of a share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.config.options import PluginConfig, options
from nomad_nvidia_vgpu.sharing.framework_hints import FRAMEWORKS, Part, hints

JAX = "XLA_PYTHON_CLIENT_MEM_FRACTION"
MIB = st.integers(1, 300_000)


def jax_fraction(*parts: Part, headroom_mib: int = 512) -> float:
    """Gives what JAX is told."""
    return float(hints(["jax"], parts, headroom_mib)[JAX])


def test_each_framework_has_its_variables() -> None:
    """A quarter of 16,000 MiB less 400 is 0.225 of what the framework sees."""
    part = Part(share_mib=4000, total_mib=16000)
    assert hints(FRAMEWORKS, [part], 400) == {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2250",
        "PYTORCH_ALLOC_CONF": "per_process_memory_fraction:0.2250",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }


def test_only_the_frameworks_that_are_named() -> None:
    """An operator without PyTorch sets nothing for it."""
    assert set(hints(["tensorflow"], [Part(1, 2)], 1)) == {"TF_FORCE_GPU_ALLOW_GROWTH"}
    assert hints([], [Part(1, 2)], 1) == {}


def test_jax_is_never_told_by_two_names() -> None:
    """It refuses to start with both `XLA_CLIENT_MEM_FRACTION` and the name that is older."""
    assert [name for name in hints(["jax"], [Part(1, 2)], 1) if "MEM_FRACTION" in name] == [JAX]


def test_the_option_knows_the_same_frameworks() -> None:
    """The words that the config allows are those of the table."""
    (option,) = (o for o in options(PluginConfig) if o.name == "framework_hints")
    assert option.kind.read(list(FRAMEWORKS)) == tuple(FRAMEWORKS)
    assert option.kind.allowed.count('"') == 2 * len(FRAMEWORKS)


def test_the_smallest_part_counts_for_all() -> None:
    """One fraction has to do for a task with an eighth of one GPU and half of another."""
    parts = (Part(40_000, 80_000), Part(10_000, 80_000))
    assert jax_fraction(*parts) == jax_fraction(parts[1])


@pytest.mark.parametrize("part", [Part(None, 1), Part(1, None), Part(0, 1)])
def test_without_known_memory_there_is_no_fraction(part: Part) -> None:
    """What is not known is left out; a framework that needs no figure is told all the same."""
    assert set(hints(FRAMEWORKS, [Part(1, 2), part], 1)) == {"TF_FORCE_GPU_ALLOW_GROWTH"}


@given(st.lists(st.tuples(MIB, MIB), min_size=1, max_size=8), MIB)
def test_nobody_is_promised_more_than_the_share(
    pairs: list[tuple[int, int]], headroom: int
) -> None:
    """However large the headroom: never beyond a share, nor more than half of it taken off."""
    shares = [(min(pair), max(pair)) for pair in pairs]
    fraction = jax_fraction(*(Part(*share) for share in shares), headroom_mib=headroom)
    assert all(fraction * total <= share for share, total in shares)
    least = min(max(share - headroom, share // 2) / total for share, total in shares)
    assert fraction > least - 1e-4
