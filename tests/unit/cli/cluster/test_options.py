# SPDX-License-Identifier: MPL-2.0
"""Flags and variables of Nomad's command line."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from nomad_nvidia_vgpu.cli.cluster.options import connected, nomad_options


@click.command()
@nomad_options
def command(**flags: Any) -> None:
    """Shows what the connection was told."""
    click.echo(repr(sorted(connected(flags).environment.items())))


def told(*arguments: str, **environment: str) -> str:
    """What the connection is told."""
    done = CliRunner().invoke(command, arguments, env=environment)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(autouse=True)
def nobodys_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of whoever runs the tests are left out."""
    for name in ("NOMAD_ADDR", "NOMAD_TOKEN", "NOMAD_NAMESPACE", "NOMAD_REGION"):
        monkeypatch.delenv(name, raising=False)


def test_variables_reach_the_connection() -> None:
    """Those with a flag, and those without."""
    assert told(NOMAD_ADDR="http://h:1", NOMAD_TOKEN="t", NOMAD_SKIP_VERIFY="true") == (
        "[('NOMAD_ADDR', 'http://h:1'), ('NOMAD_SKIP_VERIFY', 'true'), ('NOMAD_TOKEN', 't')]\n"
    )


def test_a_flag_wins_over_its_variable() -> None:
    """As with `nomad`."""
    assert "http://flag:1" in told("--address", "http://flag:1", NOMAD_ADDR="http://variable:1")


def test_there_is_no_flag_for_the_token() -> None:
    """A command line is there for all to read."""
    assert "token" not in CliRunner().invoke(command, ["--help"]).output.lower()
