# SPDX-License-Identifier: MPL-2.0
"""What a soak has found."""

from __future__ import annotations

from collections import Counter


class Table:
    """What was promised, how often it was tried, and how often it held."""

    def __init__(self) -> None:
        """Nothing was tried yet."""
        self._tries: Counter[str] = Counter()
        self._held: Counter[str] = Counter()

    def check(self, promise: str, held: bool) -> None:  # noqa: FBT001  the finding itself
        """Counts one try."""
        self._tries[promise] += 1
        self._held[promise] += bool(held)

    def text(self) -> str:
        """The table, in Markdown."""
        rows = [f"| {p} | {n} | {self._held[p]} |" for p, n in self._tries.items()]
        return "\n".join(["| promise | tries | held |", "|---|---|---|", *rows])

    @property
    def broken(self) -> bool:
        """Whether a promise was broken."""
        return self._tries != self._held
