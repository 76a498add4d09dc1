# SPDX-License-Identifier: MPL-2.0
"""Sets GPUs to EXCLUSIVE_PROCESS and back, remembering on disk what they were before.

The note is written before the mode is changed: after a crash, a kill or a reboot the next start
knows what was changed by this plugin, and restores that and nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from functools import partial
from pathlib import Path

from nomad_nvidia_vgpu.goplugin.logs import fields
from nomad_nvidia_vgpu.gpu.model import DEFAULT, EXCLUSIVE_PROCESS, ComputeModes
from nomad_nvidia_vgpu.host.files import read_bounded
from nomad_nvidia_vgpu.outbox import Outbox

_MAX_BYTES = 1 << 20

_log = logging.getLogger(__name__)


class ComputeModeJournal:
    """The modes that were in force before ours, by GPU."""

    def __init__(self, path: Path, modes: ComputeModes) -> None:
        """`path` is the journal's file; it need not exist."""
        self._path = path
        self._modes = modes
        self._lock = threading.Lock()  # of the file: one journal for all GPUs
        self._outbox = Outbox()

    def uuids(self) -> list[str]:
        """The GPUs whose mode was changed and not yet restored."""
        with self._lock:
            found = sorted(self._read())
        self._outbox.deliver()
        return found

    def set_exclusive(self, uuid: str) -> None:
        """Puts a GPU into EXCLUSIVE_PROCESS, unless it is already; HardwareError, OSError."""
        now = self._modes.compute_mode(uuid)
        if now in (EXCLUSIVE_PROCESS, None):
            return  # not ours, or ours and in the journal already
        with self._lock:
            self._write({**self._read(), uuid: now})
        self._outbox.deliver()
        self._modes.set_compute_mode(uuid, EXCLUSIVE_PROCESS)
        _log.info(
            "%s was in compute mode %s, is now in %s",
            uuid,
            now,
            EXCLUSIVE_PROCESS,
            extra=fields(gpu=uuid),
        )

    def restore(self, uuid: str) -> None:
        """Gives a GPU back the mode that it had, if it is still in ours; HardwareError, OSError."""
        with self._lock:
            before = self._read().get(uuid)
        self._outbox.deliver()
        if before is None:
            return
        if self._modes.compute_mode(uuid) == EXCLUSIVE_PROCESS:
            self._modes.set_compute_mode(uuid, before)
            _log.info("%s is in compute mode %s again", uuid, before, extra=fields(gpu=uuid))
        # Else a reboot or somebody has changed it since: what stands is theirs.
        with self._lock:
            self._write({u: mode for u, mode in self._read().items() if u != uuid})

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(read_bounded(self._path, _MAX_BYTES))
            return {str(uuid): str(mode) for uuid, mode in found.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError) as error:
            spoilt = self._path.with_suffix(".spoilt")
            self._path.replace(spoilt)
            text = (
                "%s is spoilt (%s) and was moved to %s: GPUs that this plugin put into %s stay so;"
                " put them back with nvidia-smi -i <UUID> -c %s where MPS is not used"
            )
            seen = (self._path, error, spoilt, EXCLUSIVE_PROCESS, DEFAULT)
            self._outbox.put(partial(_log.warning, text, *seen))
            return {}

    def _write(self, entries: dict[str, str]) -> None:
        """Replaces the file in one step: it is whole, whenever the power fails."""
        fresh = self._path.with_suffix(".new")
        with fresh.open("w") as file:
            json.dump(entries, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
