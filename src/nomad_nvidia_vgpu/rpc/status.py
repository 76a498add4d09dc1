# SPDX-License-Identifier: MPL-2.0
"""The texts of refusals, as the wire and the host's log can take them."""

from __future__ import annotations

from nomad_nvidia_vgpu.goplugin.logs import printable

MAX_WIRE_BYTES = 7_500
"""Above 8 KiB of metadata gRPC drops some answers by chance, and above 16 KiB all."""

_PLAIN = frozenset(map(chr, range(0x20, 0x7F))) - {"%"}
"""What gRPC sends in one byte; of all else three for each byte of UTF-8."""


def status_text(error: Exception) -> str:
    """The error on one line, cut where a host would lose all of it."""
    text = printable(str(error)[: MAX_WIRE_BYTES + 1])
    sent = 0
    for position, character in enumerate(text):
        sent += 1 if character in _PLAIN else 3 * len(character.encode())
        if sent > MAX_WIRE_BYTES:
            return f"{text[:position]}… and more"
    return text
