# SPDX-License-Identifier: MPL-2.0
"""The installed program as a subprocess, over the fake driver, met by our host side of go-plugin."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from libnvidia_ml.driver import FakeDriver, built
from mps_control.control import install

from nomad_nvidia_vgpu.cookie import COOKIE_KEY, COOKIE_VALUE, PROTOCOL_VERSION
from nomad_nvidia_vgpu.goplugin.handshake import Handshake
from nomad_nvidia_vgpu.goplugin.host import LogLine
from nomad_nvidia_vgpu.rpc.client import Host

from .mps_machine import MpsMachine, eventually

HANDSHAKE = Handshake(COOKIE_KEY, COOKIE_VALUE, PROTOCOL_VERSION)

PROGRAM = Path(sys.executable).with_name("nvidia-vgpu")
"""The console script of the environment that runs the tests."""


PATIENCE_S = 120.0
"""Ends a test that waits in vain; nothing takes as long, even where the CPU is scarce."""


class Started(Host):
    """A plugin and everything it has logged."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Starts the installed program."""
        self.logs: list[LogLine] = []
        super().__init__(
            [str(PROGRAM)], HANDSHAKE, environment=environment, on_log=self.logs.append
        )

    def logged(self, level: str) -> list[str]:
        """The messages of one level so far."""
        return [line.message for line in self.logs if line.level == level]

    def logged_in_all(self, level: str, text: str = "") -> list[str]:
        """All messages of one level with this text, which come at least once; ends the plugin.

        The log lags behind the fingerprint, so it waits for the first of them, if text is given.
        """
        if text:
            eventually(lambda: any(text in message for message in self.logged(level)))
        self.__exit__(None, None, None)
        return [message for message in self.logged(level) if text in message]

    def end(self, package: str = "plugin") -> int:
        """Asks the plugin to end, and waits until it has by itself; its exit status.

        How long that takes is measured by `make bench`, and that Nomad need not kill it by `e2e`:
        here the machine may be busy with something else.
        """
        self.plugin.shutdown(package, timeout_s=PATIENCE_S)
        return self.plugin.process.wait(PATIENCE_S)


QUICK = {"fingerprint_period": "100ms", "health": {"recovery_period": "0s"}}
"""Tests wait for what happens, and should not wait long."""

Start = Callable[..., Started]


def fact(node: FakeDriver, section: str, key: str) -> str:
    """What the node's profile says; the test is wrong if it says nothing."""
    value = node.get(section, key)
    assert value is not None, f"[{section}] has no {key}"
    return value


@pytest.fixture(scope="session")
def library() -> Path:
    """The fake library of a current driver."""
    return built()


@pytest.fixture(scope="session")
def old_library() -> Path:
    """The fake library of driver 470."""
    return built(driver_470=True)


@pytest.fixture
def node(library: Path, tmp_path: Path) -> FakeDriver:
    """A node whose GPUs a test can choose and break."""
    return FakeDriver(library, tmp_path)


@pytest.fixture
def machine(
    node: FakeDriver, tmp_path: Path, mps_root: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MpsMachine]:
    """A node with MPS tools; nothing of them is left after the test."""
    fake = install(tmp_path / "bin")
    monkeypatch.setenv("PATH", fake.environment()["PATH"])
    with ExitStack() as stack:
        stack.callback(fake.stop_all)
        tasks = stack.enter_context(ExitStack())
        yield MpsMachine(node, fake, mps_root, tasks)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the plugin, with a config if one is given; stops it after the test."""
    with ExitStack() as stack:

        def run(node: FakeDriver | None = None, **config: Any) -> Started:
            environment = {**os.environ, **(node.environment() if node else {})}
            host = stack.enter_context(Started(environment))
            if config:
                host.set_config({**QUICK, **config})
            return host

        yield run
