# SPDX-License-Identifier: MPL-2.0
"""Setting GPUs to EXCLUSIVE_PROCESS, and giving back what was."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.errors import GpuError
from nomad_nvidia_vgpu.sharing.mps.compute_mode import ComputeModeJournal

DEFAULT, EXCLUSIVE, PROHIBITED = "DEFAULT", "EXCLUSIVE_PROCESS", "PROHIBITED"


class Modes:
    """Compute modes that a test can set, and break."""

    def __init__(self, **modes: str | None) -> None:
        """The mode of each GPU."""
        self.modes: dict[str, str | None] = dict(modes)
        self.error: GpuError | None = None
        self.journal: Path | None = None
        self.noted: list[bool] = []
        """For each time that a mode was set, whether the GPU stood in the journal by then."""

    def compute_mode(self, uuid: str) -> str | None:
        """As set."""
        return self.modes[uuid]

    def set_compute_mode(self, uuid: str, mode: str) -> None:
        """Sets it, or fails as told."""
        if self.journal is not None:
            self.noted.append(uuid in json.loads(self.journal.read_text()))
        if self.error is not None:
            raise self.error
        self.modes[uuid] = mode


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Gives the journal's file, which is not there yet."""
    return tmp_path / "compute-modes.json"


def test_a_mode_is_noted_before_it_is_changed(path: Path) -> None:
    """Whenever we are killed, the next start knows."""
    modes = Modes(a=DEFAULT)
    modes.journal = path
    ComputeModeJournal(path, modes).set_exclusive("a")
    assert modes.noted == [True]
    assert modes.modes["a"] == EXCLUSIVE


def test_the_next_start_restores_what_was_changed_and_nothing_else(path: Path) -> None:
    """A GPU that somebody else had made exclusive stays so."""
    modes = Modes(a=DEFAULT, b=EXCLUSIVE, c=PROHIBITED)
    before = ComputeModeJournal(path, modes)
    for uuid in "abc":
        before.set_exclusive(uuid)
    assert set(modes.modes.values()) == {EXCLUSIVE}
    after = ComputeModeJournal(path, modes)
    assert after.uuids() == ["a", "c"]
    for uuid in "abc":
        after.restore(uuid)
    assert modes.modes == {"a": DEFAULT, "b": EXCLUSIVE, "c": PROHIBITED}
    assert after.uuids() == []


def test_setting_it_again_keeps_what_was_first(path: Path) -> None:
    """A restart of ours finds EXCLUSIVE_PROCESS, and must not take that for the operator's."""
    modes = Modes(a=DEFAULT)
    ComputeModeJournal(path, modes).set_exclusive("a")
    ComputeModeJournal(path, modes).set_exclusive("a")
    ComputeModeJournal(path, modes).restore("a")
    assert modes.modes["a"] == DEFAULT


def test_a_mode_that_was_changed_since_is_left_alone(path: Path) -> None:
    """After a reboot, or an operator's command, there is nothing of ours to restore."""
    modes = Modes(a=PROHIBITED)
    journal = ComputeModeJournal(path, modes)
    journal.set_exclusive("a")
    modes.modes["a"] = DEFAULT
    journal.restore("a")
    assert modes.modes["a"] == DEFAULT
    assert journal.uuids() == []


def test_a_mode_that_could_not_be_set_is_nothing_to_restore(path: Path) -> None:
    """The note came first; that it was never carried out does no harm."""
    modes = Modes(a=DEFAULT)
    modes.error = GpuError("no permission")
    journal = ComputeModeJournal(path, modes)
    with pytest.raises(GpuError):
        journal.set_exclusive("a")
    modes.error = None
    ComputeModeJournal(path, modes).restore("a")
    assert modes.modes["a"] == DEFAULT


def test_a_gpu_without_a_mode_is_not_touched(path: Path) -> None:
    """MIG devices have none."""
    modes = Modes(a=None)
    ComputeModeJournal(path, modes).set_exclusive("a")
    assert modes.modes == {"a": None}
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", '"a"'])
def test_a_spoilt_journal_is_put_aside_and_told(
    path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator reads what cannot be restored by itself, and how to."""
    path.write_text(text)
    with caplog.at_level(logging.WARNING):
        assert ComputeModeJournal(path, Modes()).uuids() == []
    assert "nvidia-smi -i <UUID> -c DEFAULT" in caplog.text
    assert path.with_suffix(".spoilt").read_text() == text


@pytest.mark.parametrize("kind", ["fifo", "endless"])
def test_a_journal_that_is_no_small_file_is_told(path: Path, kind: str) -> None:
    """The pass ends with a reason; it neither waits nor fills the memory."""
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    with pytest.raises(OSError, match=r"not a regular file|longer than"):
        ComputeModeJournal(path, Modes(a=DEFAULT)).set_exclusive("a")


def test_another_name_of_the_journal_keeps_what_it_had(path: Path, tmp_path: Path) -> None:
    """The file is replaced, never written into: a hard link elsewhere is no way in, or out."""
    other = tmp_path / "other"
    other.write_text("{}")
    path.hardlink_to(other)
    ComputeModeJournal(path, Modes(a=DEFAULT)).set_exclusive("a")
    assert other.read_text() == "{}"
    assert json.loads(path.read_text()) == {"a": DEFAULT}
