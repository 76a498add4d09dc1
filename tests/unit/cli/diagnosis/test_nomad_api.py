# SPDX-License-Identifier: MPL-2.0
"""The client of Nomad's API, against a server on the loopback."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.nomad_api import ApiGroup, NomadLook, look_at_nomad

NODE = {
    "Attributes": {"nomad.version": "1.9.7"},
    "NodeResources": {
        "Devices": [
            {
                "Vendor": "letmutx",
                "Type": "gpu",
                "Name": "NVIDIA L4",
                "Instances": [
                    {"ID": "GPU-a-0", "Healthy": True},
                    {"ID": "GPU-a-1", "Healthy": False, "HealthDescription": "lost"},
                ],
            }
        ]
    },
}
SELF = {"config": {"Version": {"Version": "1.11.3"}}, "stats": {"client": {"node_id": "n-1"}}}
GROUP = ApiGroup("letmutx", "gpu", "NVIDIA L4", {"GPU-a-0": "", "GPU-a-1": "lost"})


class Requests(list[tuple[str, dict[str, str]]]):
    """Path and headers of each request."""

    address = ""

    def look(self, **environment: str) -> NomadLook:
        """What the client makes of the answers."""
        return look_at_nomad({"NOMAD_ADDR": self.address, **environment}, "host-1")


@contextmanager
def serving(answers: Mapping[str, object]) -> Iterator[Requests]:
    """A server that answers so: a document, a number for a status, bytes, or a status with bytes."""
    seen = Requests()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, dict(self.headers)))
            answer: Any = answers.get(self.path, 404)
            status, answer = answer if isinstance(answer, tuple) else (200, answer)
            self.send_response(answer if isinstance(answer, int) else status)
            self.end_headers()
            if not isinstance(answer, int):
                body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Says nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    seen.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_agent_that_is_no_client_says_so() -> None:
    """It knows no node of this name then, for which a token would be no remedy."""
    server = {"config": {"Client": {"Enabled": False}}, "stats": {}}
    with serving({"/v1/agent/self": server, "/v1/nodes": []}) as seen:
        look = seen.look()
    assert look.client is False
    assert "agent that is no client, and knows no node of the name host-1" in look.problem
    assert "client { enabled = true }" in look.remedy
    client = {**SELF, "config": {"Client": {"Enabled": True}}}
    with serving({"/v1/agent/self": client, "/v1/node/n-1": NODE}) as seen:
        assert seen.look().client is True


def test_an_agent_knows_its_own_node() -> None:
    """Version, node and device groups, with the reason of what is unhealthy."""
    with serving({"/v1/agent/self": SELF, "/v1/node/n-1": NODE}) as seen:
        look = seen.look()
    assert look == NomadLook(seen.address, "", False, "1.11.3", "n-1", (GROUP,))


def test_without_the_right_to_ask_the_agent_the_node_is_found_by_name() -> None:
    """A token may read nodes only; the node tells Nomad's version too."""
    nodes = [{"Name": "host-0", "ID": "n-0"}, {"Name": "host-1", "ID": "n-1"}]
    with serving({"/v1/agent/self": 403, "/v1/nodes": nodes, "/v1/node/n-1": NODE}) as seen:
        look = seen.look()
    assert (look.version, look.node_id, look.groups) == ("1.9.7", "n-1", (GROUP,))


def test_a_node_without_devices_has_no_groups() -> None:
    """Nomad says null."""
    node = {"NodeResources": {"Devices": None}}
    with serving({"/v1/agent/self": SELF, "/v1/node/n-1": node}) as seen:
        assert seen.look().groups == ()


def test_token_login_and_region_are_sent_and_never_shown() -> None:
    """As the nomad command does."""
    with serving({}) as seen:
        look = seen.look(NOMAD_TOKEN="s3cret", NOMAD_HTTP_AUTH="me:pw", NOMAD_REGION="eu west")
    path, headers = seen[0]
    assert path == "/v1/agent/self?region=eu+west"
    assert headers["X-Nomad-Token"] == "s3cret"
    assert headers["Authorization"] == "Basic bWU6cHc="
    assert "s3cret" not in str(look)


@pytest.mark.parametrize("token", ["s3cret\n", "s3cret\r\nX-Forged: 1", "s3cret\u2026"])
def test_a_token_that_cannot_be_sent_is_not_quoted(token: str) -> None:
    """The library would, and people put the doctor's words into reports."""
    with serving({}) as seen:
        look = seen.look(NOMAD_TOKEN=token)
    assert "NOMAD_TOKEN holds a line end" in look.problem
    assert "s3cret" not in str(look)
    assert list(seen) == []


@pytest.mark.parametrize(
    "address",
    [
        "http://me:s3cret@127.0.0.1:1",
        "http://me:s3cret/x@127.0.0.1:1",
        "http://me:s3cret://x@127.0.0.1:1",
        "me:s3cret://x@127.0.0.1:1",
        "me:s3cret@h",
        "//s3cret@h:p",
    ],
)
def test_a_password_in_the_address_is_not_shown(address: str) -> None:
    """Whether the address is one or not."""
    look = look_at_nomad({"NOMAD_ADDR": address}, "x")
    assert look.problem
    assert "s3cret" not in str(look)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"/v1/agent/self": 403, "/v1/nodes": 403}, "wants a token"),
        ({"/v1/nodes": []}, "knows no node of the name host-1"),
        ({"/v1/agent/self": SELF, "/v1/node/n-1": 500}, "status 500"),
        ({"/v1/agent/self": SELF, "/v1/node/n-1": b"<html>"}, "not JSON"),
    ],
)
def test_each_refusal_is_half_a_sentence(answers: Mapping[str, object], words: str) -> None:
    """And never an exception."""
    with serving(answers) as seen:
        look = seen.look()
    assert words in look.problem
    assert look.groups is None
    assert not look.refused


def test_nobody_listening_is_told_from_silence() -> None:
    """One means that no agent runs there."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    look = look_at_nomad({"NOMAD_ADDR": f"http://127.0.0.1:{port}"}, "x")
    assert look.refused


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is taken and left alone."""
    monkeypatch.setattr("nomad_nvidia_vgpu.cli.diagnosis.nomad_api._TIMEOUT_S", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        look = look_at_nomad({"NOMAD_ADDR": address}, "x")
    assert "does not answer" in look.problem


def test_a_server_of_tls_asked_without_is_said() -> None:
    """Go's answer has the status of a wrong request, which nobody would understand."""
    words = b"Client sent an HTTP request to an HTTPS server.\n"
    with serving({"/v1/agent/self": (400, words), "/v1/nodes": (400, words)}) as seen:
        look = seen.look()
    assert look.problem == "speaks TLS"
    assert look.remedy.startswith("write https:// in NOMAD_ADDR")


def test_a_node_that_is_not_registered_yet_is_said() -> None:
    """As for some seconds after an agent's start, when people look."""
    with serving({"/v1/agent/self": SELF}) as seen:
        look = seen.look()
    assert look.problem.startswith("does not know this node yet (n-1)")
    assert look.remedy.startswith("look again in some seconds")
    assert look.version == "1.11.3"


@pytest.mark.parametrize("address", ["localhost:4646", "http://", "http://a:b", "http://[::1"])
def test_other_addresses_are_refused_with_their_form(address: str) -> None:
    """Nothing is tried."""
    assert "http://host:port" in look_at_nomad({"NOMAD_ADDR": address}, "x").problem


def test_tls_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """As NOMAD_CACERT with a slip."""
    environment = {"NOMAD_ADDR": "https://127.0.0.1:1", "NOMAD_CACERT": str(tmp_path / "no.pem")}
    assert "cannot be asked, because the TLS files" in look_at_nomad(environment, "x").problem


def test_tls_towards_a_server_without_it_is_said() -> None:
    """OpenSSL would say WRONG_VERSION_NUMBER; NOMAD_SKIP_VERIFY reaches the connection."""
    with serving({}) as seen:
        address = seen.address.replace("http:", "https:")
        environment = {"NOMAD_ADDR": address, "NOMAD_SKIP_VERIFY": "true"}
        look = look_at_nomad(environment, "x")
    assert look.problem == "does not speak TLS"
    assert look.remedy.startswith("write http:// in NOMAD_ADDR")
