# SPDX-License-Identifier: MPL-2.0
"""Asks dockerd what it runs with: its files may say what it does not know yet, or not any more."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_TIMEOUT_S = 5.0
_MAX_BYTES = 4 << 20
_OK = 200


class DockerLook(NamedTuple):
    """What dockerd says of itself."""

    socket: str
    problem: str = ""
    """Why it says nothing, in half a sentence."""
    runtimes: Mapping[str, str] | None = None
    """The program of each runtime, by its name; None: it does not say."""
    default_runtime: str | None = None
    cgroup_driver: str | None = None
    """`systemd` or `cgroupfs`."""


NOT_ASKED = DockerLook("/run/docker.sock", "was not asked")


def look_at_docker(place: Path) -> DockerLook:
    """What the dockerd behind this socket answers to `GET /info`; takes some seconds at most."""
    connection = _Unix(place)
    try:
        connection.request("GET", "/info", headers={"Accept": "application/json"})
        response = connection.getresponse()
        body = response.read(_MAX_BYTES)
        if response.status != _OK:
            return DockerLook(str(place), f"answers with status {response.status}")
        info = json.loads(body)
    except FileNotFoundError:
        return DockerLook(str(place), "is not there")
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return DockerLook(str(place), f"does not answer ({said})")
    finally:
        connection.close()
    return _told(str(place), info)


def _told(place: str, info: Any) -> DockerLook:
    listed = info.get("Runtimes") if isinstance(info, dict) else None
    if not isinstance(listed, dict):
        return DockerLook(place, "answers with something else than dockerd's facts")
    programs = {
        str(name): str(runtime.get("path") or name)
        for name, runtime in listed.items()
        if isinstance(runtime, dict)
    }
    return DockerLook(
        place,
        runtimes=programs,
        default_runtime=_text(info.get("DefaultRuntime")),
        cgroup_driver=_text(info.get("CgroupDriver")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


class _Unix(http.client.HTTPConnection):
    def __init__(self, place: Path) -> None:
        super().__init__("docker", timeout=_TIMEOUT_S)
        self._place = place

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._place))
