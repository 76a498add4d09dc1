# SPDX-License-Identifier: MPL-2.0
"""Where the plugin listens, and when it lets go; what goes over the socket is for `contract`."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.goplugin import server
from nomad_nvidia_vgpu.goplugin.handshake import HandshakeError
from nomad_nvidia_vgpu.goplugin.server import _wait
from unit.manual_clock import DEADLINE_S

NO_PROCESS = -1


def make_directory(environment: Mapping[str, str]) -> Path:
    """Gives a socket's directory, where nobody objects to any."""
    return Path(server._make_directory(environment, lambda _: None))


def test_the_socket_directory_is_for_us_alone(short_path: Path) -> None:
    """The directory of the socket is fresh, in the host's place, and closed to others."""
    with server._socket_directory(
        {"PLUGIN_UNIX_SOCKET_DIR": str(short_path)}, lambda _: None
    ) as place:
        directory = Path(place)
        assert directory.parent == short_path
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert not list(directory.iterdir())


def test_the_socket_directory_is_removed(short_path: Path) -> None:
    """Nothing is left of the socket and its directory afterwards."""
    with server._socket_directory({"TMPDIR": str(short_path)}, lambda _: None) as directory:
        (Path(directory) / "plugin.sock").touch()
    assert not list(short_path.iterdir())


def test_each_plugin_has_a_directory_of_its_own(short_path: Path) -> None:
    """Two plugins started in one place do not meet."""
    environment = {"TMPDIR": str(short_path)}
    assert make_directory(environment) != make_directory(environment)


def test_the_hosts_place_goes_before_the_systems(short_path: Path) -> None:
    """The host's wish for the socket's place wins over TMPDIR."""
    wish, usual = short_path / "wish", short_path / "usual"
    wish.mkdir()
    usual.mkdir()
    made = make_directory({"PLUGIN_UNIX_SOCKET_DIR": str(wish), "TMPDIR": str(usual)})
    assert made.parent == wish


@pytest.mark.parametrize("place", ["missing", "x" * 100, "with|bar"])
def test_a_place_that_does_not_serve_is_passed_over(short_path: Path, place: str) -> None:
    """A place that is missing, too long or has a bar in it is left for the next one."""
    unfit = short_path / place
    if place != "missing":
        unfit.mkdir()
    made = make_directory({"PLUGIN_UNIX_SOCKET_DIR": str(unfit), "TMPDIR": "/tmp"})
    made.rmdir()
    assert made.parent == Path("/tmp")


def test_a_file_in_the_place_of_a_directory_is_passed_over(short_path: Path) -> None:
    """A TMPDIR that is a file does not keep the plugin from starting."""
    (short_path / "file").touch()
    made = make_directory({"TMPDIR": str(short_path / "file")})
    made.rmdir()
    assert made.parent == Path("/tmp")


def test_a_place_that_others_can_change_is_passed_over(short_path: Path) -> None:
    """Whoever could take the directory away would put his own socket where the host expects ours."""
    made = Path(
        server._make_directory(
            {"TMPDIR": str(short_path)},
            lambda path: "it is a stranger's" if path.startswith(str(short_path)) else None,
        )
    )
    made.rmdir()
    assert made.parent == Path("/tmp")
    assert not list(short_path.iterdir())


def test_a_place_that_cannot_be_judged_is_left_as_it_was(short_path: Path) -> None:
    """What was made there goes again, and the reason is told."""

    def objection(path: str) -> str | None:
        if path.startswith(str(short_path)):
            raise PermissionError(errno.EACCES, "Permission denied")
        return "it is a stranger's"

    with pytest.raises(HandshakeError, match=rf"\({short_path}: Permission denied; "):
        server._make_directory({"TMPDIR": str(short_path)}, objection)
    assert not list(short_path.iterdir())


def test_a_place_that_is_moved_away_is_passed_over(short_path: Path) -> None:
    """Its owner can do so at any moment; the plugin starts in the next place."""

    def objection(path: str) -> str | None:
        if not path.startswith(f"{short_path}/"):
            return None
        Path(path).rename(f"{path}-moved")
        return "it is another user's"

    made = Path(server._make_directory({"TMPDIR": str(short_path)}, objection))
    made.rmdir()
    assert made.parent == Path("/tmp")


def test_without_a_place_it_says_every_reason(short_path: Path) -> None:
    """The host logs the sentence, and the operator learns what to fix."""
    with pytest.raises(HandshakeError, match=r"(a stranger's.*){3}set TMPDIR to"):
        server._make_directory({"TMPDIR": str(short_path)}, lambda _: "it is a stranger's")


def test_the_host_is_told_the_real_path(short_path: Path) -> None:
    """A link on the way could be turned elsewhere once it has been judged."""
    (short_path / "real").mkdir()
    (short_path / "link").symlink_to("real")
    assert make_directory({"TMPDIR": str(short_path / "link")}).parent == short_path / "real"


_SIGNALS_AT_EACH_LINE = """
import os, signal, sys
from nomad_nvidia_vgpu.goplugin import server

left = 100

def trace(frame, event, argument):
    global left
    if left:
        left -= 1
        os.kill(os.getpid(), signal.SIGTERM)
    return trace

stop = server.Stop()
stop.set_at(signal.SIGTERM)
assert not stop.wait(0)
sys.settrace(trace)
os.kill(os.getpid(), signal.SIGTERM)
sys.settrace(None)
os._exit(not stop.wait(60))
"""
"""Sends SIGTERM again before each line of Python that runs for the first one."""


def test_a_signal_may_come_while_another_is_handled() -> None:
    """Wherever the handler is, it waits for nothing that the interrupted one holds."""
    command = [sys.executable, "-c", _SIGNALS_AT_EACH_LINE]
    assert subprocess.run(command, timeout=DEADLINE_S, check=False).returncode == 0


def test_a_host_that_lives_is_served_until_stop() -> None:
    """While the host lives and says nothing, only `stop` ends the wait."""
    stop = threading.Event()
    waiting = threading.Thread(target=_wait, args=(stop, os.getppid(), lambda: 0.0))
    waiting.start()
    waiting.join(1.2)  # a check of the parent is made each second
    still_waiting = waiting.is_alive()
    stop.set()
    waiting.join(DEADLINE_S)
    assert still_waiting
    assert not waiting.is_alive()


def test_a_dead_host_is_outlived_by_the_grace(caplog: pytest.LogCaptureFixture) -> None:
    """Without a host the wait ends by itself when the grace is over, and says why."""
    _wait(threading.Event(), NO_PROCESS, lambda: 0.0)
    assert "the host is gone" in caplog.text


def test_a_dead_host_is_waited_for_during_the_grace() -> None:
    """A dead host does not end the wait before the grace is over."""
    stop = threading.Event()
    waiting = threading.Thread(target=_wait, args=(stop, NO_PROCESS, lambda: 600.0))
    waiting.start()
    waiting.join(1.5)
    still_waiting = waiting.is_alive()
    stop.set()
    waiting.join(DEADLINE_S)
    assert still_waiting
