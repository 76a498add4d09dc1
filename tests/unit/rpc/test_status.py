# SPDX-License-Identifier: MPL-2.0
"""The texts of refusals."""

from __future__ import annotations

from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.errors import ConfigError, RequestError
from nomad_nvidia_vgpu.rpc.status import status_text

SOFT_LIMIT_BYTES = 8192
"""Of gRPC: answers with more metadata are lost, at first by chance."""
SENT_AS_THEY_ARE = "".join(chr(n) for n in range(0x20, 0x7F) if chr(n) != "%")
ANY_TEXT = st.text(st.characters(exclude_categories=[]))  # surrogates, too


def test_a_sentence_stays_as_it_is() -> None:
    """Whatever of it is printable, and not too long."""
    assert status_text(RequestError("é is no vGPU: look")) == "é is no vGPU: look"


@given(ANY_TEXT, st.integers(1, 5000))
def test_any_text_is_one_short_line(text: str, times: int) -> None:
    """No name in it forges a line of the host's log, and no host loses it for its length."""
    said = status_text(RequestError(text * times))
    assert said.isprintable()
    assert (
        len(quote(said, safe=SENT_AS_THEY_ARE)) < SOFT_LIMIT_BYTES - 500
    )  # the rest of the metadata


def test_a_long_list_of_problems_says_that_there_are_more() -> None:
    """The first ones can be read, which is enough to go on."""
    said = status_text(ConfigError([f"option {n} is wrong" for n in range(10_000)]))
    assert said.startswith("(1) option 0 is wrong; (2)")
    assert said.endswith("… and more")
