# SPDX-License-Identifier: MPL-2.0
"""The arithmetic of shares."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.sharing.grant import share_of


@given(total=st.integers(0, 2**40), parts=st.lists(st.integers(1, 60), min_size=1, max_size=60))
def test_all_shares_together_never_exceed_the_whole(total: int, parts: list[int]) -> None:
    """However the vGPUs of a GPU are granted, no more is promised than there is."""
    assert sum(share_of(total, granted, sum(parts)) for granted in parts) <= total


@given(total=st.integers(0, 2**40), vgpus=st.integers(1, 256))
def test_all_vgpus_are_the_whole(total: int, vgpus: int) -> None:
    """A task with all vGPUs of a GPU is entitled to all of it."""
    assert share_of(total, vgpus, vgpus) == total
