# SPDX-License-Identifier: MPL-2.0
"""The one line by which host and plugin find each other."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.goplugin.handshake import (
    Endpoint,
    Handshake,
    HandshakeError,
    format_line,
    host_environment,
    parse_line,
    unsupported_versions,
)

AGREED = Handshake("COOKIE", "value", 2)
SOCKET = Endpoint("unix", "/tmp/plugin-1/plugin.sock")
LINE = "1|2|unix|/tmp/plugin-1/plugin.sock|grpc"


def test_the_line_has_five_fields() -> None:
    """The line has the five fields that the oldest hosts understand, and no more."""
    assert format_line(AGREED, SOCKET) == LINE


@pytest.mark.parametrize("address", ["/tmp/a|b/plugin.sock", "|"])
def test_a_path_with_a_bar_is_refused(address: str) -> None:
    """A path that would tear the line apart is refused by name."""
    with pytest.raises(HandshakeError, match=r"must not contain '\|'"):
        format_line(AGREED, Endpoint("unix", address))


@given(st.text(st.characters(exclude_characters="|\n\r", exclude_categories=["Z", "C"])))
def test_what_is_printed_can_be_read(address: str) -> None:
    """A host reads the very endpoint that the plugin printed."""
    endpoint = Endpoint("unix", address)
    assert parse_line(AGREED, format_line(AGREED, endpoint) + "\n") == endpoint


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "first line must be a handshake, got"),
        ("hello", "first line must be a handshake, got"),
        ("1|2|unix", "first line must be a handshake, got"),
        (LINE.replace("1|", "2|", 1), "core protocol must be 1, got '2'"),
        (LINE.replace("|2|", "|3|", 1), "protocol version must be 2, got '3'"),
        (LINE.replace("|2|", "||", 1), "protocol version must be 2, got ''"),
        (LINE.replace("unix", "pipe"), "network must be unix or tcp, got 'pipe'"),
        (LINE.replace("|grpc", "|netrpc"), "wire protocol must be grpc"),
        (LINE.replace("|grpc", ""), "wire protocol must be grpc"),
        (LINE.replace("grpc", ""), "wire protocol must be grpc"),
    ],
)
def test_a_line_that_a_host_would_refuse_is_refused(line: str, says: str) -> None:
    """A line that a real host does not accept is an error that says why."""
    with pytest.raises(HandshakeError, match=says):
        parse_line(AGREED, line)


@given(st.text())
def test_any_line_is_an_endpoint_or_refused(line: str) -> None:
    """Whatever a plugin prints, reading it ends in an endpoint or a HandshakeError."""
    with contextlib.suppress(HandshakeError):
        assert parse_line(AGREED, line).network in ("unix", "tcp")


@pytest.mark.parametrize("more", ["|", "||true", "|Zm9v|true"])
def test_further_fields_are_passed_over(more: str) -> None:
    """The fields that newer plugins add do not keep a host from reading the line."""
    assert parse_line(AGREED, LINE + more) == SOCKET


def test_a_host_sets_what_a_plugin_looks_for() -> None:
    """A plugin in a host's environment sees the cookie and a version that it speaks."""
    environment = host_environment(AGREED)
    assert environment[AGREED.cookie_key] == AGREED.cookie_value
    assert unsupported_versions(AGREED, environment) is None


@pytest.mark.parametrize("listed", ["2", "1,2", "3, 2", " 2 "])
def test_a_host_that_speaks_our_version_is_fine(listed: str) -> None:
    """Our version anywhere on the host's list is enough."""
    assert unsupported_versions(AGREED, {"PLUGIN_PROTOCOL_VERSIONS": listed}) is None


@pytest.mark.parametrize("listed", ["1", "1,3", "22", "v2"])
def test_a_host_that_does_not_speak_our_version_is_quoted(listed: str) -> None:
    """Without our version on it, the host's list is given back for the log."""
    assert unsupported_versions(AGREED, {"PLUGIN_PROTOCOL_VERSIONS": listed}) == listed


@pytest.mark.parametrize("environment", [{}, {"PLUGIN_PROTOCOL_VERSIONS": ""}])
def test_a_host_that_lists_nothing_is_fine(environment: dict[str, str]) -> None:
    """Hosts that send no list of versions are not complained about."""
    assert unsupported_versions(AGREED, environment) is None
