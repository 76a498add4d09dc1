# SPDX-License-Identifier: MPL-2.0
"""Where an agent's HTTP API is to be found, by the agent's own configuration."""

from __future__ import annotations

from typing import Any

from nomad_nvidia_vgpu.cli.agent.hcl1 import Body
from nomad_nvidia_vgpu.cli.agent.hcl1_values import is_true, literals, settings_of

_PORT = 4646
_LOOPBACK = "127.0.0.1"
_ANY = {"0.0.0.0": _LOOPBACK, "::": "[::1]", "[::]": "[::1]"}  # noqa: S104  not bound to
"""Where to ask an agent that listens everywhere."""


class AgentHttp:
    """What an agent's files say of its API, each merged over those before it as Nomad does."""

    def __init__(self) -> None:
        """Nothing is said yet: http://127.0.0.1:4646."""
        self._host = ""
        self._bind = ""
        self._port = _PORT
        self._tls: dict[str, Any] = {}

    def merge(self, parsed: Body) -> None:
        """Takes over what a further file says."""
        self._host = _text(literals(settings_of(parsed, "addresses")).get("http")) or self._host
        self._bind = _text(literals(parsed).get("bind_addr")) or self._bind
        port = str(literals(settings_of(parsed, "ports")).get("http"))
        if port.isdecimal() and int(port) > 0:
            self._port = int(port)
        tls = literals(settings_of(parsed, "tls"))
        self._tls.update({name: value for name, value in tls.items() if value})

    def environment(self) -> dict[str, str]:
        """The variables that would lead Nomad's own command line there."""
        secure = is_true(self._tls.get("http"))
        host = (self._host or self._bind or _LOOPBACK).split()[0]
        if "{{" in f"{self._host or self._bind}":
            host = _LOOPBACK  # only the agent works out its templates
        host = _ANY.get(host, f"[{host}]" if host.count(":") > 1 and host[0] != "[" else host)
        found = {"NOMAD_ADDR": f"{'https' if secure else 'http'}://{host}:{self._port}"}
        if secure and (authority := _text(self._tls.get("ca_file"))):
            found["NOMAD_CACERT"] = authority
        return found


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""
