# SPDX-License-Identifier: MPL-2.0
"""The handshake between a host and a plugin, as pure functions over text.

The host puts a magic cookie into the environment; the plugin prints one line that says where it
listens (docs/internals/nomad.md#starting). Nothing here reads or writes anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

CORE_PROTOCOL_VERSION = 1
"""The version of the handshake itself; go-plugin knows no other."""

VERSIONS_ENV = "PLUGIN_PROTOCOL_VERSIONS"
SOCKET_DIR_ENV = "PLUGIN_UNIX_SOCKET_DIR"

_MIN_FIELDS = 4


class HandshakeError(Exception):
    """Host and plugin could not agree, or the line is not a handshake."""


class Handshake(NamedTuple):
    """What one kind of plugin and its host agree on beforehand."""

    cookie_key: str
    """Name of the environment variable that the host sets."""
    cookie_value: str
    """Its value; no secret, only a sign that a host and not a person started us."""
    protocol_version: int
    """Version of the application protocol that the plugin speaks."""


class Endpoint(NamedTuple):
    """Where a plugin listens."""

    network: str
    """`unix` or `tcp`."""
    address: str
    """Path of the socket, or `host:port`."""


def host_environment(handshake: Handshake) -> dict[str, str]:
    """The variables that a host adds to the environment of a plugin."""
    return {
        handshake.cookie_key: handshake.cookie_value,
        VERSIONS_ENV: str(handshake.protocol_version),
        "PLUGIN_MIN_PORT": "10000",
        "PLUGIN_MAX_PORT": "25000",
    }


def unsupported_versions(handshake: Handshake, environment: Mapping[str, str]) -> str | None:
    """The host's list of versions if ours is not on it, else None."""
    listed = environment.get(VERSIONS_ENV, "")
    if not listed or str(handshake.protocol_version) in (v.strip() for v in listed.split(",")):
        return None
    return listed


def format_line(handshake: Handshake, endpoint: Endpoint) -> str:
    """The one line for standard output, without its newline.

    Five fields and no more: hosts before go-plugin 1.6.0 split into at most six parts and would
    take a seventh (the multiplexing flag) for a part of the certificate.
    """
    if "|" in endpoint.address:
        raise HandshakeError(f"a socket path must not contain '|': {endpoint.address!r}")
    return "|".join(
        (
            str(CORE_PROTOCOL_VERSION),
            str(handshake.protocol_version),
            endpoint.network,
            endpoint.address,
            "grpc",
        )
    )


def parse_line(handshake: Handshake, line: str) -> Endpoint:
    """Where the plugin that printed `line` listens; HandshakeError if a host would refuse it."""
    fields = line.strip().split("|")
    if len(fields) < _MIN_FIELDS:
        raise HandshakeError(f"its first line must be a handshake, got {line.strip()!r}")
    core, version, network, address = fields[:4]
    if core != str(CORE_PROTOCOL_VERSION):
        raise HandshakeError(f"core protocol must be {CORE_PROTOCOL_VERSION}, got {core!r}")
    if version != str(handshake.protocol_version):
        raise HandshakeError(
            f"protocol version must be {handshake.protocol_version}, got {version!r}"
        )
    if network not in ("unix", "tcp"):
        raise HandshakeError(f"network must be unix or tcp, got {network!r}")
    if (fields[4] if len(fields) > _MIN_FIELDS else "netrpc") != "grpc":
        raise HandshakeError(f"wire protocol must be grpc: {line.strip()!r}")
    return Endpoint(network, address)
