# SPDX-License-Identifier: MPL-2.0
"""Asking dockerd over its socket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.docker_api import look_at_docker

INFO = {
    "Runtimes": {
        "io.containerd.runc.v2": {"path": "runc"},
        "nvidia": {"path": "/usr/bin/nvidia-container-runtime", "status": {}},
        "plain": {},
    },
    "DefaultRuntime": "nvidia",
    "CgroupDriver": "systemd",
}


@contextmanager
def dockerd(place: Path, body: str, status: str = "200 OK") -> Iterator[Path]:
    """Answers one request."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()

        def answer() -> None:
            link, _ = listener.accept()
            with link:
                link.recv(65536)
                length = len(body.encode())
                link.sendall(
                    f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}".encode()
                )

        server = threading.Thread(target=answer)
        server.start()
        yield place
        server.join(60)


def test_it_says_what_it_runs_with(tmp_path: Path) -> None:
    """The program of a runtime without one is its name."""
    with dockerd(tmp_path / "d", json.dumps(INFO)) as place:
        look = look_at_docker(place)
    assert look.runtimes == {
        "io.containerd.runc.v2": "runc",
        "nvidia": "/usr/bin/nvidia-container-runtime",
        "plain": "plain",
    }
    assert (look.default_runtime, look.cgroup_driver) == ("nvidia", "systemd")
    assert not look.problem


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("no", "500 Oh", "status 500"),
        ("no", "200 OK", "does not answer"),
        ("[]", "200 OK", "something else"),
        ('{"Runtimes": 7}', "200 OK", "something else"),
    ],
)
def test_another_answer_is_none(tmp_path: Path, body: str, status: str, words: str) -> None:
    """Nothing is guessed from it."""
    with dockerd(tmp_path / "d", body, status) as place:
        look = look_at_docker(place)
    assert look.runtimes is None
    assert words in look.problem


def test_a_socket_where_nobody_listens(tmp_path: Path) -> None:
    """Which is told from one that is not there."""
    assert look_at_docker(tmp_path / "none").problem == "is not there"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    assert "refused" in look_at_docker(tmp_path / "left").problem
