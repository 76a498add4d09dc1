# SPDX-License-Identifier: MPL-2.0
"""The texts of refusals, as the wire and the host's log can take them."""

from __future__ import annotations

from nomad_nvidia_vgpu.goplugin.logs import printable

MAX_BYTES = 4_000
"""gRPC sends three for each that is not ASCII, and a client gives up at 16 KiB of them."""


def status_text(error: Exception) -> str:
    """The error on one line, cut where a host would lose all of it."""
    text = printable(str(error)[: MAX_BYTES + 1])
    data = text.encode()
    if len(data) <= MAX_BYTES:
        return text
    return f"{data[:MAX_BYTES].decode(errors='ignore')}… and more"
