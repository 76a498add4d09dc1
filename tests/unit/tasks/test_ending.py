# SPDX-License-Identifier: MPL-2.0
"""Ending processes of tasks, real ones."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from nomad_nvidia_vgpu.state.usage import Task, TaskProcess
from nomad_nvidia_vgpu.tasks.ending import Doomed, end
from unit.manual_clock import DEADLINE_S
from unit.tasks.doomed_processes import STUBBORN, TASK, Sleepers, as_seen, same_process

NO_GRACE_S = 1 / 64
WHY = "a test"


@pytest.fixture
def sleepers() -> Iterator[Sleepers]:
    """Gives processes; ends them after the test."""
    made = Sleepers()
    yield made
    made.end()


@pytest.fixture(params=[True, False], ids=["pidfd", "no pidfd"])
def pidfd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With descriptors of processes, and without, as on kernels before 5.3."""
    if not request.param:

        def missing(pid: int) -> int:
            raise OSError(38, "Function not implemented", pid)

        monkeypatch.setattr(os, "pidfd_open", missing)
    return bool(request.param)


@pytest.mark.usefixtures("pidfd")
def test_who_ends_when_asked_is_not_killed(sleepers: Sleepers) -> None:
    """A process that ends when it is asked to is sent nothing more."""
    process = sleepers.start()
    sent: list[signal.Signals] = []
    # Somebody has to collect it, as its parent does in real life, or it never quite ends.
    parent = threading.Thread(target=process.wait)
    parent.start()
    end([(as_seen(process), TASK)], same_process, WHY, DEADLINE_S, sent.append)
    parent.join(DEADLINE_S)
    assert process.returncode == -signal.SIGTERM
    assert sent == [signal.SIGTERM]


@pytest.mark.usefixtures("pidfd")
def test_who_does_not_end_is_killed_after_the_grace(sleepers: Sleepers) -> None:
    """A process that ignores the request is killed."""
    process = sleepers.start(STUBBORN)
    sent: list[signal.Signals] = []
    end([(as_seen(process), TASK)], same_process, WHY, NO_GRACE_S, sent.append)
    assert process.wait(DEADLINE_S) == -signal.SIGKILL
    assert sent == [signal.SIGTERM, signal.SIGKILL]


@pytest.mark.usefixtures("pidfd")
def test_another_process_of_that_pid_is_spared(sleepers: Sleepers) -> None:
    """A process that started at another time than the one that was meant is left alone."""
    process = sleepers.start()
    meant = as_seen(process)
    sent: list[signal.Signals] = []
    other = meant._replace(started=meant.started - 1)
    end([(other, TASK)], same_process, WHY, NO_GRACE_S, sent.append)
    assert process.poll() is None
    assert sent == []


@pytest.mark.usefixtures("pidfd")
def test_it_is_checked_again_before_each_signal(sleepers: Sleepers) -> None:
    """A process that was asked to end and then turns out not to be meant is not killed."""
    process = sleepers.start(STUBBORN)
    asked = 0

    def only_once(_process: TaskProcess, _task: Task) -> bool:
        nonlocal asked
        asked += 1
        return asked == 1

    sent: list[signal.Signals] = []
    end([(as_seen(process), TASK)], only_once, WHY, NO_GRACE_S, sent.append)
    assert process.poll() is None
    assert sent == [signal.SIGTERM]


@pytest.mark.usefixtures("pidfd")
def test_who_has_ended_already_is_no_failure(sleepers: Sleepers) -> None:
    """A process that ended and was collected keeps nobody else from being ended."""
    gone, left = sleepers.start(), sleepers.start()
    seen = [(as_seen(process), TASK) for process in (gone, left)]
    gone.kill()
    gone.wait()
    end(seen, same_process, WHY, NO_GRACE_S)
    assert left.wait(DEADLINE_S) in (-signal.SIGTERM, -signal.SIGKILL)


def test_a_process_that_may_not_be_ended_is_told(
    sleepers: Sleepers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the right to send signals, the log names the remedy and nothing counts as sent."""

    def forbidden(_pidfd: int, _number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(signal, "pidfd_send_signal", forbidden)
    sent: list[signal.Signals] = []
    end([(as_seen(sleepers.start()), TASK)], same_process, WHY, NO_GRACE_S, sent.append)
    assert sent == []
    assert "run the Nomad agent as root" in caplog.text


def test_no_descriptor_is_left_open(sleepers: Sleepers) -> None:
    """The descriptor of a process is closed when it is let go."""
    with Doomed(as_seen(sleepers.start()), TASK, same_process) as doomed:
        descriptor = doomed._pidfd
        assert descriptor is not None
        os.fstat(descriptor)
    with pytest.raises(OSError, match=r"Bad file descriptor"):
        os.fstat(descriptor)
