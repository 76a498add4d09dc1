# SPDX-License-Identifier: MPL-2.0
"""`make audit`, with a vulnerability service of our own in the place of the real ones."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from scripts.pins import REQUIREMENTS, pins

pytestmark = pytest.mark.timeout(600)  # pip-audit is installed


class Osv(HTTPServer):
    """A service that speaks OSV's protocol, knows what it is told, and keeps what it is asked."""

    def __init__(self) -> None:
        """Listens on loopback."""
        super().__init__(("127.0.0.1", 0), _Query)
        self.vulnerable: set[tuple[str, str]] = set()
        self.asked: list[tuple[str, str]] = []
        self.status = 200


class _Query(BaseHTTPRequestHandler):
    server: Osv

    def do_POST(self) -> None:
        """Answers which vulnerabilities one version of one package has."""
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = (query["package"]["name"], query["version"])
        self.server.asked.append(asked)
        known = {"id": "PYSEC-2026-1", "summary": "holes", "affected": []}
        answer = json.dumps({"vulns": [known]} if asked in self.server.vulnerable else {}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""


@pytest.fixture
def osv() -> Iterator[Osv]:
    """The service, which knows of nothing."""
    with Osv() as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.01,))
        thread.start()
        yield service
        service.shutdown()
        thread.join()


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """What `make` says, as if no other `make` had started the tests."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    environment["NO_PROXY"] = "127.0.0.1"
    command = ("make", "--silent", f"PYTHON={sys.executable}", *words)
    where = REQUIREMENTS.parent
    return subprocess.run(
        command, cwd=where, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def installed() -> None:
    """The environment of pip-audit is there."""
    done = make("build/audit/.ready")
    if done.returncode != 0:
        pytest.skip(done.stderr)


def audit(port: int) -> subprocess.CompletedProcess[str]:
    """`make audit` with the service at this port."""
    url = f"http://127.0.0.1:{port}/v1/query"
    return make("audit", f"ARGS=--vulnerability-service osv --osv-url {url}")


def pinned() -> set[tuple[str, str]]:
    """All versions of all packages that are pinned, for whichever Python."""
    texts = (path.read_text() for path in REQUIREMENTS.glob("*.txt"))
    return {(pin.name, pin.version) for text in texts for pin in pins(text)}


def test_every_pin_is_asked_about(installed: None, osv: Osv) -> None:
    """Also those for other Pythons than the one that runs, each once."""
    done = audit(osv.server_port)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{len(pinned())} pinned packages: no vulnerability is known\n"
    assert sorted(osv.asked) == sorted(pinned())


def test_a_known_vulnerability_is_a_failure(installed: None, osv: Osv) -> None:
    """It is named with its package, though that is for another Python than runs here."""
    here = [(pin.name, pin.version) for pin in pins((REQUIREMENTS / "dev.txt").read_text())]
    names = Counter(name for name, _ in here)
    # Two versions in one file are for two Pythons.
    for_two = next(name for name in sorted(names) if names[name] > 1)
    for name, version in (pin for pin in here if pin[0] == for_two):
        osv.vulnerable = {(name, version)}
        done = audit(osv.server_port)
        assert done.returncode != 0
        (row,) = (line for line in done.stdout.splitlines() if "PYSEC-2026-1" in line)
        assert row.split()[:3] == [name, version, "PYSEC-2026-1"]
        assert "no vulnerability is known" not in done.stdout


def test_a_service_out_of_reach_is_a_failure(installed: None) -> None:
    """One sentence says so, and none that all is well."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        done = audit(nobody.getsockname()[1])
    assert (done.returncode != 0, done.stdout) == (True, "")
    (sentence,) = (line for line in done.stderr.splitlines() if not line.startswith("make"))
    assert sentence.startswith("not audited, so nothing is known (HTTPConnectionPool(")
    assert "Connection refused" in sentence


def test_a_service_that_is_ill_is_a_failure(installed: None, osv: Osv) -> None:
    """It answers, but with an error."""
    osv.status = 503
    done = audit(osv.server_port)
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert "not audited, so nothing is known (503 Server Error" in done.stderr
    assert "Traceback" not in done.stderr
