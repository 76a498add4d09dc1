# SPDX-License-Identifier: MPL-2.0
"""Which rule decides what of a GPU."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.config.blocks import GpuBlock, GpuConfig
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.sharing.policy import NODE, decide, unmatched, without_host_memory
from unit.example_gpus import gpu, mig

A100 = gpu("GPU-a", model="NVIDIA A100-SXM4-80GB", memory_mib=81920, pci_bus_id="0000:1a:00.0")
DEVICE = mig("MIG-1", parent="GPU-p", pci_bus_id="0000:07:00.0")

SPECIAL = ["GPU-a", "0000:1a:00.0", "NVIDIA A100-SXM4-80GB", "NVIDIA*", "*"]
"""Selectors of one GPU, the most special first."""


def config(blocks: dict[str, dict[str, Any]], **options: Any) -> PluginConfig:
    """Gives a config with these gpu blocks."""
    gpu_blocks = tuple(GpuBlock(s, GpuConfig(**fields)) for s, fields in blocks.items())
    return PluginConfig(gpu=gpu_blocks, **options)


def test_without_blocks_the_node_decides() -> None:
    """What no block says, the node's options say."""
    policy = decide(PluginConfig(vgpus=4, group_by="gpu", sharing="mps"), A100)
    assert policy[:5] == (4, "mps", "gpu", False, None)
    assert set(policy.decided_by) == {NODE}


@pytest.mark.parametrize(
    "selector",
    [
        "GPU-a",
        "gpu-A",
        "0000:1a:00.0",
        "00000000:1A:00.0",
        "NVIDIA A100-SXM4-80GB",
        "nvidia a100*",
        "*A100*",
        "NVIDIA A100-SXM?-80GB",
        "*",
    ],
)
def test_a_block_selects_by_uuid_bus_id_or_model(selector: str) -> None:
    """A GPU is named by UUID, by bus id as the kernel or NVML spells it, or by its model."""
    policy = decide(config({selector: {"vgpus": 3}}, vgpus=8), A100)
    assert (policy.vgpus, policy.decided_by.size) == (3, f'gpu "{selector}"')
    assert policy.decided_by.sharing == NODE


@pytest.mark.parametrize(
    "selector",
    [
        "GPU-b",
        "GPU-*",
        "0000:1b:00.0",
        "0001:1a:00.0",
        "1a:00.0",
        "A100",
        "*H100*",
        "[N]VIDIA*",
        "?",
    ],
)
def test_a_block_for_others_says_nothing(selector: str) -> None:
    """A glob is for the whole model's name, only * and ? are special, and never for a UUID."""
    given_config = config({selector: {"vgpus": 3}}, vgpus=8)
    assert decide(given_config, A100).vgpus == 8
    assert [str(block) for block in unmatched(given_config, [A100])] == [f'gpu "{selector}"']


def test_a_glob_of_many_stars_takes_no_time() -> None:
    """A pattern that tries each star against each other would not come back in this life."""
    long = gpu(model="a" * 90)
    given_config = config({"*a" * 90 + "*b": {"vgpus": 3}, "*?" * 90: {"vgpus": 5}}, vgpus=8)
    assert decide(given_config, long).vgpus == 5


def test_a_domain_of_32_bits_selects_as_the_kernel_spells_it() -> None:
    """Old Azure drivers report domains of which the kernel knows the lower half."""
    card = gpu(pci_bus_id="cfdd:00:00.0")
    assert decide(config({"03F8CFDD:00:00.0": {"vgpus": 3}}, vgpus=8), card).vgpus == 3


@given(st.lists(st.sampled_from(SPECIAL), min_size=1, unique=True), st.randoms())
def test_the_most_special_block_decides(selectors: list[str], random: Any) -> None:
    """UUID, bus id, then the glob with the most letters decides, whatever the order in the file."""
    expected = min(selectors, key=SPECIAL.index)
    random.shuffle(selectors)
    blocks = {s: {"vgpus": SPECIAL.index(s) + 1, "name": f"n{SPECIAL.index(s)}"} for s in selectors}
    policy = decide(config(blocks, vgpus=8), A100)
    assert policy.vgpus == SPECIAL.index(expected) + 1
    assert policy.name == f"n{SPECIAL.index(expected)}"
    assert policy.decided_by.size == policy.decided_by.name == f'gpu "{expected}"'


def test_each_field_is_decided_by_itself() -> None:
    """A block that is more special but silent on a field leaves it to the next."""
    blocks: dict[str, dict[str, Any]] = {
        "GPU-a": {"sharing": "mps"},
        "*A100*": {"vgpu_memory_mib": 10240, "sharing": "time-slicing"},
        "*": {"group_by": "gpu", "vgpus": 2},
    }
    policy = decide(config(blocks, vgpus=16), A100)
    assert policy[:3] == (8, "mps", "gpu")
    assert policy.decided_by[:3] == ('gpu "*A100*"', 'gpu "GPU-a"', 'gpu "*"')


@pytest.mark.parametrize("fields", [("vgpus", 4, 8), ("name", "a", "b"), ("ignored", True, False)])
def test_equally_special_blocks_that_differ_decide_nothing(fields: tuple[str, Any, Any]) -> None:
    """Two globs of as many letters that say different things are told, by both names."""
    name, value, other = fields
    found = decide(config({"*A100*": {name: value}, "NVIDI*": {name: other}}, vgpus=2), A100)
    assert found.problem == ""
    found = decide(config({"*A100*": {name: value}, "*SXM4*": {name: other}}, vgpus=2), A100)
    assert 'GPU-a: gpu "*A100*" and gpu "*SXM4*" are equally special' in found.problem
    assert found.vgpus == 1


def test_equally_special_blocks_that_agree_decide() -> None:
    """Two blocks that say the same thing do not contradict each other."""
    found = decide(config({"*A100*": {"vgpus": 4}, "*SXM4*": {"vgpus": 4}}), A100)
    assert (found.vgpus, found.problem) == (4, "")


def test_a_number_and_an_amount_of_one_rank_contradict() -> None:
    """Both say the size, even if they came out at the same number."""
    blocks = {"*A100*": {"vgpus": 8}, "*SXM4*": {"vgpu_memory_mib": 10240}}
    assert (
        "equally special and say different things of its size"
        in decide(config(blocks), A100).problem
    )


@pytest.mark.parametrize(
    ("blocks", "vgpus"),
    [
        ({"MIG-1": {"vgpus": 2}, "GPU-p": {"vgpus": 3}}, 2),
        ({"GPU-p": {"vgpus": 3}, "0000:07:00.0": {"vgpus": 4}}, 3),
        ({"0000:07:00.0": {"vgpus": 4}, "* MIG 3g.20gb": {"vgpus": 5}}, 4),
        ({"* MIG 3g.20gb": {"vgpus": 5}, "*A100*": {"vgpus": 6}}, 5),
        ({"*A100*": {"vgpus": 6}}, 6),
    ],
)
def test_a_mig_device_is_also_its_parent(blocks: dict[str, dict[str, Any]], vgpus: int) -> None:
    """Its own UUID says more than its parent's, that more than the bus id, which is the parent's."""
    assert decide(config(blocks, vgpus=1), DEVICE).vgpus == vgpus


@pytest.mark.parametrize("ignored", ["GPU-A", "mig-1", "GPU-p"])
def test_the_list_of_ignored_ids_wins(ignored: str) -> None:
    """An id in ignored_gpu_ids is ignored whatever a block says."""
    given_config = config({"*": {"ignored": False}}, vgpus=1, ignored_gpu_ids=(ignored,))
    assert [decide(given_config, card).ignored for card in (A100, DEVICE)] == (
        [True, False] if ignored == "GPU-A" else [False, True]
    )


def test_a_more_special_block_can_take_back_that_a_gpu_is_ignored() -> None:
    """All A100 but one."""
    blocks = {"*A100*": {"ignored": True}, "GPU-a": {"ignored": False}}
    assert not decide(config(blocks, vgpus=1), A100).ignored
    assert decide(config(blocks, vgpus=1), gpu("GPU-b", model=A100.model)).ignored


def test_a_gpu_that_no_rule_gives_a_size_says_so() -> None:
    """Where only some GPUs have a size, the others cannot be divided."""
    found = decide(config({"*H100*": {"vgpus": 4}}), A100)
    assert found.vgpus == 1
    assert found.problem.startswith("GPU-a: neither the node's options nor a gpu block give")


def test_a_gpu_that_is_too_small_says_so() -> None:
    """A GPU with less memory than one vGPU is to have cannot be divided."""
    found = decide(PluginConfig(vgpu_memory_mib=81921), A100)
    assert found.vgpus == 1
    assert found.problem.startswith("GPU-a: its 81920 MiB are less than one vgpu_memory of 81921")


def test_an_amount_of_unknown_memory_says_so() -> None:
    """A GPU that does not tell its memory can be divided by a number only."""
    found = decide(PluginConfig(vgpu_memory_mib=1024), gpu(memory_mib=None))
    assert "does not tell its memory" in found.problem


@given(st.integers(1, 2**20), st.integers(1, 2**20))
def test_shares_are_never_below_the_size_asked_for(memory_mib: int, least_mib: int) -> None:
    """Shares fit on the GPU together, none is below the size, and one more would not fit."""
    found = decide(PluginConfig(vgpu_memory_mib=least_mib), gpu(memory_mib=memory_mib))
    if found.problem:
        assert memory_mib < least_mib
        return
    assert 1 <= found.vgpus <= 256
    assert memory_mib // found.vgpus >= least_mib
    assert found.vgpus == 256 or memory_mib // (found.vgpus + 1) < least_mib


def test_a_block_that_is_for_some_gpu_is_not_unmatched() -> None:
    """A block that is only never decisive is no mistake."""
    blocks = {"*A100*": {"vgpus": 4}, "GPU-a": {"vgpus": 4}, "GPU-x": {"vgpus": 4}}
    assert [b.selector for b in unmatched(config(blocks), [A100, DEVICE])] == ["GPU-x"]


@pytest.mark.parametrize(
    ("blocks", "own"),
    [
        ({}, False),
        ({"*A100*": {"vgpus": 4}}, False),
        ({"GPU-a": {"vgpus": 8}}, False),
        ({"GPU-a": {"vgpus": 4}}, True),
        ({"0000:1a:00.0": {"vgpus": 4}}, True),
        ({"*A100*": {"vgpus": 4}, "GPU-a": {"vgpus": 4}}, False),
        ({"GPU-a": {"name": "x"}}, False),
    ],
)
def test_a_size_of_its_own_is_one_that_its_model_does_not_have(
    blocks: dict[str, dict[str, Any]], own: object
) -> None:
    """A GPU that a block for it alone divides otherwise is told from the others of its model."""
    assert decide(config(blocks, vgpus=8), A100).own_size is own


@pytest.mark.parametrize(("total_mib", "kept_mib"), [(122_880, 16_384), (8_192, 4_096)])
def test_a_part_of_unified_memory_stays_with_the_host(total_mib: int, kept_mib: int) -> None:
    """Sixteen GiB, or half of a small machine; a GPU with memory of its own keeps all of it."""
    config = PluginConfig(vgpus=4)
    unified = gpu("GPU-u", memory_mib=total_mib, unified_memory=True)
    assert without_host_memory(config, unified).own_memory_mib == total_mib - kept_mib
    assert without_host_memory(config, gpu("GPU-a")) == gpu("GPU-a")
    nothing = config._replace(unified_memory_reserve_mib=1)
    assert without_host_memory(nothing, unified).own_memory_mib == total_mib - 1


def test_what_stays_with_the_host_is_in_no_share() -> None:
    """A size divides what is left."""
    config = PluginConfig(vgpu_memory_mib=10_240)
    assert decide(config, gpu("GPU-u", memory_mib=122_880, unified_memory=True)).vgpus == 10
