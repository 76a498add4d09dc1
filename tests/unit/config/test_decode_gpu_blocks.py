# SPDX-License-Identifier: MPL-2.0
"""Sizes, and blocks for single GPUs, from Nomad's msgpack to a config."""

from __future__ import annotations

from typing import Any

import pytest

from nomad_nvidia_vgpu.config.decode import decode, unknown_options
from nomad_nvidia_vgpu.config.options import PluginConfig, options
from nomad_nvidia_vgpu.errors import ConfigError

NOT_CONFIGURED: dict[str, Any] = {**dict.fromkeys(option.name for option in options()), "gpu": {}}
"""What Nomad sends for an empty config block: of blocks with labels an empty map."""


def test_no_blocks_are_nothing_given() -> None:
    """A config block in which nothing stands has no gpu blocks either, and is accepted."""
    assert decode(NOT_CONFIGURED) == PluginConfig()
    with pytest.raises(ConfigError, match=r"vgpus and vgpu_memory are both missing"):
        decode({**NOT_CONFIGURED, "gpu": {"GPU-a": {"ignored": True}}})


@pytest.mark.parametrize(
    "given",
    [
        {"vgpu_memory": "10GiB"},
        {"gpu": {"GPU-a": {"vgpus": 4}}},
        {"gpu": {"GPU-a": {"vgpu_memory": "1 GiB"}, "GPU-b": None}},
    ],
)
def test_any_size_will_do(given: dict[str, Any]) -> None:
    """A size may be a number or an amount of memory, and be given for some GPUs alone."""
    assert decode(given).configured


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"vgpus": 4, "vgpu_memory": "10GiB"}, ""),
        ({"vgpus": 4, "gpu": {"*L4*": {"vgpus": 2, "vgpu_memory": "10GiB"}}}, 'gpu "*L4*".'),
    ],
)
def test_one_scope_has_one_size(given: dict[str, Any], path: str) -> None:
    """Two ways to say the size in one place contradict each other; in two places they do not."""
    with pytest.raises(ConfigError) as refused:
        decode(given)
    (problem,) = refused.value.problems
    assert problem.startswith(f"{path}vgpus and {path}vgpu_memory are both set")
    assert decode({"vgpus": 4, "gpu": {"*L4*": {"vgpu_memory": "10GiB"}}}).configured


def test_problems_in_blocks_are_named_with_their_labels() -> None:
    """Whoever has ten gpu blocks must be told which is wrong; all are reported together."""
    with pytest.raises(ConfigError) as refused:
        decode(
            {
                "vgpus": 0,
                "gpu": {
                    "*A100*": {"vgpus": 300, "name": "a/b"},
                    "GPU-a": {"vgpu_memory": "10"},
                    "GPU-b": 5,
                    "": {},
                    "a\nb": {},
                },
            }
        )
    starts = ["vgpus ", *(f'gpu "{label}' for label in ('*A100*".vgpus', '*A100*".name'))]
    starts += [
        'gpu "GPU-a".vgpu_memory ',
        'gpu "GPU-b" must be a block',
        'gpu "" must be labelled with a UUID',
    ]
    starts += ['gpu "a\\nb" must be labelled']
    assert len(refused.value.problems) == len(starts)
    for problem, start in zip(refused.value.problems, starts, strict=True):
        assert problem.startswith(start)


def test_unknown_options_in_blocks_with_labels_are_named() -> None:
    """An unknown option is named with its block's label."""
    assert unknown_options({"gpu": {"GPU-a": {"vgpus": 1}, "GPU-b": None}}) == []
    (problem,) = unknown_options({"gpu": {"GPU-a": {"vgpu": 1}}})
    assert problem.startswith('gpu "GPU-a".vgpu is not an option')
    assert problem.endswith("did you mean vgpus?")


@pytest.mark.parametrize("beside", [{"vgpus": 4}, {}], ids=["with a size", "with no other size"])
def test_a_block_without_a_label_is_told_what_it_lacks(beside: dict[str, object]) -> None:
    """Its options look like labels then, and are none; that no size is given would not be true."""
    with pytest.raises(ConfigError) as refused:
        decode({**beside, "gpu": {"vgpus": 2, "name": "small"}})
    assert str(refused.value) == (
        "gpu must be labelled with a UUID, a PCI bus id or a model's name with * and ?, such as"
        ' gpu "*L4*" { vgpus = 2, name = "small" }'
    )
