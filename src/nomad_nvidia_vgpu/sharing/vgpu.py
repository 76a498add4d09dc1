# SPDX-License-Identifier: MPL-2.0
"""The identity of a vGPU, printed and parsed in this one place."""

from __future__ import annotations

import re
from typing import NamedTuple

_ID = re.compile(r"(?P<uuid>.+)-(?P<number>0|[1-9][0-9]{0,3})", re.DOTALL)


class VgpuId(NamedTuple):
    """One of the N shares of a GPU.

    As text it is `<GPU uuid>-<number>`, which Nomad stores in allocations: the form can never
    change.
    """

    gpu_uuid: str
    number: int
    """From 0 to N-1."""

    def __str__(self) -> str:
        return f"{self.gpu_uuid}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> VgpuId | None:
        """The id that `text` spells, or None if it spells none."""
        match = _ID.fullmatch(text)
        return cls(match["uuid"], int(match["number"])) if match else None
