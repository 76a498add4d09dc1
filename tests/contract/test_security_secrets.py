# SPDX-License-Identifier: MPL-2.0
"""Secrets of the agent, of a person and of a task stay where they are: docs/security.md."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from pathlib import Path

import grpc
import psutil
import pytest
from libnvidia_ml.driver import FakeDriver

from nomad_nvidia_vgpu.rpc.client import Refused

from .conftest import PATIENCE_S, PROGRAM, Start
from .mps_machine import MpsMachine, eventually
from .test_metrics import LOOPBACK, port, scrape_until
from .test_top import task

__all__ = ["port"]  # a fixture

SECRET = "s3cret-0f-the-agent"
SECRETS = dict.fromkeys(
    (
        "NOMAD_TOKEN",
        "VAULT_TOKEN",
        "CONSUL_HTTP_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "MY_PASSWORD",
    ),
    SECRET,
)


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of an agent that was given all of them."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def page(port: int) -> str:
    """All that a client of the metrics is sent."""
    client = http.client.HTTPConnection(LOOPBACK, port, timeout=PATIENCE_S)
    client.request("GET", "/metrics")
    answer = client.getresponse()
    return f"{answer.headers}{answer.read().decode()}"


@pytest.mark.usefixtures("secrets")
def test_no_secret_of_the_agent_is_logged_or_measured(
    node: FakeDriver, start: Start, port: int
) -> None:
    """At trace level, through refusals and nonsense; nor does anybody read a traceback."""
    node.load("h100x8")
    with task(node, "gpu 0", 0):
        host = start(node, vgpus=2, log_level="trace", metrics_address=f"{LOOPBACK}:{port}")
        groups = next(host.fingerprints())
        next(host.stats(0.1))
        host.reserve([groups[0].instances[0].id])
        garbage: grpc.UnaryUnaryMultiCallable[bytes, bytes] = host.plugin.channel.unary_unary(
            "/hashicorp.nomad.plugins.device.DevicePlugin/Reserve"
        )
        with pytest.raises(grpc.RpcError):
            garbage(b"\xff" * 100)
        with pytest.raises(Refused):
            host.set_config_bytes(b"\xc1")
        scrape_until(port, lambda p: p.all("nvidia_vgpu_task_info"))
        assert SECRET not in page(port)
    host.__exit__(None, None, None)
    assert host.logs
    assert not any("Traceback" in line.message for line in host.logs)
    assert SECRET not in str(host.logs)


@pytest.mark.usefixtures("secrets")
def test_no_secret_of_the_agent_reaches_a_child(machine: MpsMachine, start: Start) -> None:
    """MPS daemons outlive the agent, their servers work for tasks, the tool is asked all the time."""
    start(machine.node, **machine.config()).fingerprints().next_within(60.0)
    eventually(lambda: len(machine.fake.servers()) == 2)
    for process in (*machine.fake.daemons(), *machine.fake.servers()):
        assert SECRET not in str(psutil.Process(process.pid).environ())
    asked = machine.fake.commands()
    assert asked
    assert not any(call.names & SECRETS.keys() for call in asked)
    assert not any(call.names & SECRETS.keys() for call in machine.fake.starts())


@pytest.mark.usefixtures("secrets")
def test_a_launched_plugin_gets_no_secret(node: FakeDriver, tmp_path: Path) -> None:
    """`launch --plugin` starts whatever it is told to."""
    node.load("h100x8")
    seen, wrapper = tmp_path / "seen", tmp_path / "plugin"
    wrapper.write_text(f"#!/bin/sh\nenv > {seen}\nexec {PROGRAM}\n")
    wrapper.chmod(0o755)
    subprocess.run(
        [PROGRAM, "launch", "--plugin", wrapper, "--vgpus", "2"],
        env={**os.environ, **node.environment()},
        capture_output=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert "NOMAD_PLUGIN_MAGIC_COOKIE" in seen.read_text()
    assert SECRET not in seen.read_text()


def test_the_doctor_quotes_no_secret(node: FakeDriver, tmp_path: Path) -> None:
    """People put its words into reports: neither of its environment, nor of the agent's file."""
    node.load("h100x8")
    file = tmp_path / "agent.hcl"
    file.write_text(f'vault {{\n  token = "{SECRET}" {SECRET}\n}}\n')
    address = f"http://me:{SECRET}@127.0.0.1:1"
    done = subprocess.run(
        [PROGRAM, "doctor", "--json", "--agent-config", file, "--time-limit", "60"],
        env={
            **os.environ,
            **node.environment(),
            **SECRETS,
            "NOMAD_ADDR": address,
            "NOMAD_TOKEN": f"{SECRET}\n",
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    checks = {finding["check"] for finding in json.loads(done.stdout)["findings"]}
    assert {"agent-config", "api"} <= checks
    assert SECRET not in done.stdout + done.stderr


def test_of_a_task_only_our_variables_are_shown(
    node: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its environment is read as root, and has its own secrets in it."""
    node.load("h100x8")
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with task(node, "gpu 0", 0):
        for name in SECRETS:
            monkeypatch.delenv(name)
        done = subprocess.run(
            [PROGRAM, "top", "--vgpus", "2", "--once", "--json", "--explain"],
            env={**os.environ, **node.environment()},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
    assert '"infer"' in done.stdout
    assert SECRET not in done.stdout + done.stderr
