# SPDX-License-Identifier: MPL-2.0
"""The identity of a vGPU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.sharing.vgpu import VgpuId

ANY_TEXT = st.text(st.characters(exclude_categories=[]))


@given(st.text(st.characters(exclude_categories=[]), min_size=1), st.integers(0, 4095))
def test_what_is_printed_can_be_parsed(uuid: str, number: int) -> None:
    """For any UUID and number, the printed id parses to the same id."""
    vgpu = VgpuId(uuid, number)
    assert VgpuId.parse(str(vgpu)) == vgpu


@given(ANY_TEXT)
def test_any_text_can_be_parsed(text: str) -> None:
    """A text is an id, and then prints as itself, or it is none; it never fails."""
    vgpu = VgpuId.parse(text)
    assert vgpu is None or str(vgpu) == text


def test_an_id_is_uuid_and_number() -> None:
    """The form that Nomad keeps in allocations is the UUID, a dash and the number."""
    assert str(VgpuId("GPU-5c0a", 15)) == "GPU-5c0a-15"
    assert VgpuId.parse("GPU-5c0a-15") == VgpuId("GPU-5c0a", 15)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "-0",
        "0",
        "GPU",
        "GPU-a",
        "GPU-a-",
        "GPU-a-01",
        "GPU-a--1 ",
        "GPU-a-1\n",
        "GPU-a-٣",
        "GPU-a-10000",
        "GPU-a-x",
        "GPU-a-1.0",
        "GPU-a-²",
    ],
)
def test_other_texts_are_no_ids(text: str) -> None:
    """What is not exactly of the printed form is no id."""
    assert VgpuId.parse(text) is None
