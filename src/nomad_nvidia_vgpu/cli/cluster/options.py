# SPDX-License-Identifier: MPL-2.0
"""Where Nomad's API is, by the flags and variables that the `nomad` command has.

There is no flag for the token: the command line of a process is there for all to read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from nomad_nvidia_vgpu.cli.cluster.connection import DEFAULT_ADDRESS, Connection

_FLAGS = (
    ("address", "NOMAD_ADDR", f"Where Nomad's API is; else {DEFAULT_ADDRESS}."),
    ("region", "NOMAD_REGION", "The region to ask."),
    ("namespace", "NOMAD_NAMESPACE", "The namespace of the job; else default."),
    ("ca-cert", "NOMAD_CACERT", "A file with the authority that signed the server's certificate."),
    ("ca-path", "NOMAD_CAPATH", "A folder with such files."),
    ("client-cert", "NOMAD_CLIENT_CERT", "A certificate to show to the server."),
    ("client-key", "NOMAD_CLIENT_KEY", "The key of that certificate."),
    ("tls-server-name", "NOMAD_TLS_SERVER_NAME", "The name in the server's certificate."),
)
_ALSO = ("NOMAD_TOKEN", "NOMAD_HTTP_AUTH", "NOMAD_SKIP_VERIFY")

_Command = TypeVar("_Command", bound=Callable[..., Any])


def nomad_options(command: _Command) -> _Command:
    """Adds the flags; the command is given their values, for `connected`, as `nomad`."""
    for flag, variable, meaning in reversed(_FLAGS):
        command = click.option(
            f"--{flag}", envvar=variable, show_envvar=True, help=meaning, metavar="TEXT"
        )(command)
    return command


def connected(flags: dict[str, Any]) -> Connection:
    """A connection by the flags, which stand for their variables where they are given."""
    environment = {name: os.environ[name] for name in _ALSO if os.environ.get(name)}
    for flag, variable, _ in _FLAGS:
        value = flags.get(flag.replace("-", "_"))
        if value:
            environment[variable] = str(value)
    return Connection(environment)
