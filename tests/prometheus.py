# SPDX-License-Identifier: MPL-2.0
"""A Prometheus of Debian's, unpacked for the tests: its checker of rules, and a server on loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
UNPACKED = ROOT / "build/prometheus"
PATIENCE_S = 120.0


class NoPrometheusError(Exception):
    """It cannot be had here."""


def program(name: str) -> Path:
    """`prometheus` or `promtool`; NoPrometheusError where Debian's cannot be fetched."""
    script = ROOT / "scripts/prometheus.sh"
    done = subprocess.run(
        [script, UNPACKED], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    if done.returncode != 0:
        raise NoPrometheusError(f"{script.name}: {done.stderr.strip() or done.returncode}")
    return UNPACKED / "usr/bin" / name


class Server:
    """A Prometheus that runs."""

    def __init__(self, port: int) -> None:
        """On a port of loopback."""
        self._address = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now; OSError if it is none, or nobody answers."""
        asked = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self._address}/api/v1/query?{asked}", timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        """The same, once there is something; an AssertionError after a while."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                found = self.query(expression)
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise  # it is no expression
                found = []  # it listens, and has not started yet
            except OSError:
                found = []  # nobody listens yet
            if found:
                return found
            assert time.monotonic() < deadline, f"nothing: {expression}"
            time.sleep(0.2)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def scraping(targets: list[str], folder: Path) -> Iterator[Server]:
    """A Prometheus that reads these addresses each second, as the job nvidia-vgpu."""
    port = free_port()
    config = folder / "prometheus.yml"
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
                "scrape_configs": [
                    {"job_name": "nvidia-vgpu", "static_configs": [{"targets": targets}]}
                ],
            }
        )
    )
    process = subprocess.Popen(
        [
            program("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Server(port)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
