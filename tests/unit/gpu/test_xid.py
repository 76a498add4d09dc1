# SPDX-License-Identifier: MPL-2.0
"""What each XID does to a GPU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.gpu.xid import APPLICATION, NOTICES, Remedy, fault

OF_APPLICATIONS = [
    *(8, 11, 13, 25, 31, 32, 39, 40, 41, 43, 45, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80),
    *(82, 83, 84, 85, 86, 88, 89, 94, *range(96, 106), *range(126, 136), 137, 139),
]
REPORTS = [
    *(37, 38, 44, 63, 66, 67, 78, 92, 93, 106, 107, 121, 141, 152, 153, 154, 157),
    *range(160, 166),
]
FATAL = {
    **dict.fromkeys([46, 48, 62, 64, 95, 109, 110, 119, 120], Remedy.RESET),
    **dict.fromkeys([136, 140, 143, 155, 156, 158], Remedy.RESET),
    **dict.fromkeys([74, *range(144, 151)], Remedy.NVLINK),
    **dict.fromkeys([79, 151], Remedy.REBOOT),
    54: Remedy.POWER,
    **dict.fromkeys([*range(166, 173), 500, 999], Remedy.SEE_LOG),
}
"""NVIDIA's catalogue, as our facts about NVML suggest to read it."""


@pytest.mark.parametrize("xid", OF_APPLICATIONS)
def test_the_fault_of_an_application_takes_no_gpu_away(xid: int) -> None:
    """An XID that a process caused, or that only its process suffers from, is no fault."""
    assert fault(xid) is None
    assert xid in APPLICATION


@pytest.mark.parametrize("xid", REPORTS)
def test_a_notice_takes_no_gpu_away(xid: int) -> None:
    """An XID that only reports something is no fault."""
    assert fault(xid) is None
    assert xid in NOTICES


@pytest.mark.parametrize(("xid", "remedy"), FATAL.items())
def test_a_fatal_xid_has_its_remedy(xid: int, remedy: Remedy) -> None:
    """Any other XID, known or not, is a fault, with what to do about it."""
    found = fault(xid)
    assert found is not None
    assert found.remedy is remedy


def test_no_xid_is_of_two_classes() -> None:
    """An application's fault is no notice, and neither is in the table of faults."""
    assert not APPLICATION & NOTICES
    assert not (APPLICATION | NOTICES) & FATAL.keys()


@given(st.integers(), st.booleans())
def test_the_operators_lists_win(xid: int, known: object) -> None:
    """An XID in one of the operator's lists is what the list says, whatever it is built in as."""
    number = 13 if known else xid
    assert fault(number, fatal=[number]) is not None
    assert fault(number, ignored=[number]) is None


def test_an_xid_that_the_operator_made_fatal_says_so() -> None:
    """The text of such an XID names the option that made it a fault."""
    assert "fatal by health.fatal_xids" in str(fault(13, fatal=[13]))


@given(st.integers(1, 9999))
def test_a_text_has_number_meaning_and_remedy(xid: int) -> None:
    """Whatever an XID is, its text has the number, what it means, and what to do."""
    found = fault(xid, fatal=[xid])
    assert found is not None
    assert found.problem == f"XID {xid} ({found.meaning}): {found.remedy.value}"
    assert found.meaning
