# SPDX-License-Identifier: MPL-2.0
"""The connection to Nomad's API."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.cluster import connection as module
from nomad_nvidia_vgpu.cli.cluster.connection import (
    READ_NODES,
    Connection,
    ForbiddenError,
    NomadError,
    NotThereError,
    read_jobs,
)
from unit.cli.cluster.made_cluster import serving


def test_what_the_variables_say_is_sent() -> None:
    """Token, login and region, with what the request itself asks."""
    with serving({"/v1/nodes": [{"ID": "a"}]}) as served:
        made = served.connection(
            NOMAD_TOKEN="s3cret", NOMAD_HTTP_AUTH="me:pw", NOMAD_REGION="eu west"
        )
        assert made.get("/v1/nodes", READ_NODES, resources="true") == [{"ID": "a"}]
    (asked,) = served.asked
    assert asked.query == {"region": "eu west", "resources": "true"}
    assert asked.headers["X-Nomad-Token"] == "s3cret"
    assert asked.headers["Authorization"] == "Basic bWU6cHc="


def test_a_list_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """All entries, in order, with as many requests as pages; on one kept connection."""
    monkeypatch.setattr(module, "PAGE", 2)
    listed = [{"ID": str(n)} for n in range(5)]
    with serving({"/v1/nodes": listed}) as served:
        assert list(served.connection().pages("/v1/nodes", READ_NODES)) == listed
    assert [asked.query.get("next_token") for asked in served.asked] == [None, "2", "4"]


def test_a_document_is_posted_as_json() -> None:
    """And the answer is read as such."""
    with serving({"/v1/jobs/parse": {"ID": "x"}}) as served:
        assert served.connection().post("/v1/jobs/parse", {"a": 1}, "") == {"ID": "x"}
    assert served.asked[0].body == {"a": 1}


@pytest.mark.parametrize(
    ("said", "token", "words"),
    [
        ("Permission denied", "s3cret", 'its policy lacks node { policy = "read" }'),
        ("Permission denied", "", "NOMAD_TOKEN is not set: set one whose policy has node {"),
        ("ACL token not found", "s3cret", "does not know the token in NOMAD_TOKEN"),
    ],
)
def test_a_token_that_may_not_is_told_what_it_lacks(said: str, token: str, words: str) -> None:
    """The missing rule is named, the token is not shown."""
    with serving({"/v1/nodes": (403, said)}) as served, pytest.raises(ForbiddenError) as refused:
        served.connection(NOMAD_TOKEN=token).get("/v1/nodes", READ_NODES)
    assert words in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_rules_name_the_namespace() -> None:
    """As they are written in a policy."""
    assert read_jobs("ml") == 'namespace "ml" { policy = "read" }'


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((404, "job not found"), NotThereError, "job not found"),
        ((500, "no cluster leader"), NomadError, "status 500: no cluster leader"),
        (b"<html>", NomadError, "not JSON: set NOMAD_ADDR to a Nomad agent"),
        ((400, "Client sent an HTTP request to an HTTPS server."), NomadError, "write https://"),
    ],
)
def test_other_answers_are_one_sentence(answer: object, kind: type[NomadError], words: str) -> None:
    """With Nomad's own words where it gives some."""
    with serving({"/v1/job/x": answer}) as served, pytest.raises(kind) as refused:
        served.connection().get("/v1/job/x", "")
    assert words in str(refused.value)


@pytest.mark.parametrize("token", ["s3cret\n", "s3cret\r\nX-Forged: 1", "s3cret\u2026"])
def test_a_token_that_cannot_be_sent_is_not_quoted(token: str) -> None:
    """The library would."""
    with pytest.raises(NomadError) as refused:
        Connection({"NOMAD_TOKEN": token})
    assert "NOMAD_TOKEN holds a line end" in str(refused.value)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "http://me:s3cret@127.0.0.1:1",
        "http://me:s3cret/x@127.0.0.1:1",
        "me:s3cret://x@127.0.0.1:1",
        "me:s3cret@h",
        "//s3cret@h:p",
        "http://me:s3cret@h:0",
    ],
)
def test_a_password_in_the_address_is_not_shown(address: str) -> None:
    """Whether the address is one or not."""
    with pytest.raises(NomadError) as refused:
        Connection({"NOMAD_ADDR": address}).get("/v1/nodes", "")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "address", ["localhost:4646", "http://", "http://a:b", "ftp://h", "unix://"]
)
def test_other_addresses_are_refused_with_their_form(address: str) -> None:
    """Nothing is tried."""
    with pytest.raises(NomadError, match="is no address: write http://host:port"):
        Connection({"NOMAD_ADDR": address})


def test_nobody_listening_is_said() -> None:
    """With the address, and the variable to set."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(NomadError, match=r"does not answer .*refused.*set NOMAD_ADDR"):
        Connection({"NOMAD_ADDR": f"http://127.0.0.1:{port}"}).get("/v1/nodes", "")


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is taken and left alone."""
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(NomadError, match="does not answer"):
            Connection({"NOMAD_ADDR": address}).get("/v1/nodes", "")


def test_a_kept_connection_that_was_closed_is_made_again() -> None:
    """As after an agent's restart; a request is sent once more, on a new connection."""
    with serving({"/v1/nodes": []}) as served:
        made = served.connection()
        made.get("/v1/nodes", "")
        assert made._open is not None
        assert made._open.sock is not None
        made._open.sock.shutdown(socket.SHUT_RDWR)
        assert made.get("/v1/nodes", "") == []


def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others send is bounded."""
    monkeypatch.setattr(module, "_MAX_BYTES", 8)
    with serving({"/v1/nodes": ["0123456789"]}) as served, pytest.raises(NomadError, match="more"):
        served.connection().get("/v1/nodes", "")


def test_tls_towards_a_server_without_it_is_said() -> None:
    """OpenSSL would say WRONG_VERSION_NUMBER; NOMAD_SKIP_VERIFY reaches the connection."""
    with serving({}) as served:
        address = served.address.replace("http:", "https:")
        made = Connection({"NOMAD_ADDR": address, "NOMAD_SKIP_VERIFY": "true"})
        with pytest.raises(NomadError, match="does not speak TLS: write http://"):
            made.get("/v1/nodes", "")


def test_tls_files_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    """As NOMAD_CACERT with a slip."""
    environment = {"NOMAD_ADDR": "https://127.0.0.1:1", "NOMAD_CACERT": str(tmp_path / "no.pem")}
    with pytest.raises(NomadError, match="the TLS files that the NOMAD_… variables name"):
        Connection(environment).get("/v1/nodes", "")


def test_a_unix_socket_is_an_address(tmp_path: Path) -> None:
    """As `nomad` takes it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        answering = threading.Thread(target=_answer_once, args=(listener,))
        answering.start()
        with contextlib.closing(Connection({"NOMAD_ADDR": f"unix://{tmp_path}/s"})) as made:
            assert made.get("/v1/nodes", "") == []
        answering.join()


def _answer_once(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
