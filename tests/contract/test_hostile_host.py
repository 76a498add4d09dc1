# SPDX-License-Identifier: MPL-2.0
"""Faults of who started the plugin, and of the machine: nothing blocks, and it ends when asked."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import threading
import time
from pathlib import Path

import grpc
import psutil
import pytest

from nomad_nvidia_vgpu.goplugin.host import LogLine

from .conftest import PATIENCE_S, Start
from .hostile import NOBODY, as_root
from .test_go_plugin import SIMULATED

MESSAGES = 2_000
CHANGES = 1_000
"""Of the config, each of which is a line of some 200 bytes in the log."""


def test_messages_that_are_none_leave_nothing_behind(start: Start) -> None:
    """Two thousand of them cost less than two MiB, where grpc would keep 16 KiB of each."""
    host = start(**SIMULATED)
    next(host.fingerprints())
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = host.plugin.channel.unary_unary(
        "/hashicorp.nomad.plugins.device.DevicePlugin/Reserve"
    )
    plugin = psutil.Process(host.plugin.process.pid)

    def send(many: int) -> int:
        for _ in range(many):
            with pytest.raises(grpc.RpcError) as caught:
                call(b"\xff" * 100, timeout=PATIENCE_S)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        return plugin.memory_info().rss

    before = send(200)
    assert send(MESSAGES) - before < 2 << 20


def test_shutdown_is_obeyed_under_a_limit_of_memory(start: Start) -> None:
    """When no thread can be started any more, while streams hold those that there are."""
    host = start(**SIMULATED)
    fingerprints, stats = host.fingerprints(), host.stats(0.1)
    assert next(fingerprints)
    next(stats)
    pid = host.plugin.process.pid
    size = psutil.Process(pid).memory_info().vms
    # Room for the call itself, and none for the stack of a thread.
    most = size + (2 << 20)
    resource.prlimit(pid, resource.RLIMIT_AS, (most, most))
    more = [host.stats(60.0) for _ in range(2)]  # they take what threads are free
    # The answer may be lost for want of memory; that the plugin ends is what Nomad waits for.
    with contextlib.suppress(grpc.RpcError):
        host.end()
    assert host.plugin.process.wait(PATIENCE_S) in (0, -signal.SIGABRT)
    del more


def test_a_burst_of_signals_ends_the_plugin_once(start: Start) -> None:
    """A second SIGTERM while the first is handled waits for no lock."""
    host = start(**SIMULATED)
    next(host.fingerprints())
    process = host.plugin.process
    deadline = time.monotonic() + PATIENCE_S
    # Until it ends: those of a short burst may all come before the first of them is handled.
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
    assert process.poll() == 0


def test_a_host_that_reads_no_log_blocks_no_call(start: Start) -> None:
    """More is logged than a pipe holds, and every call is answered; then all of it is read."""
    host = start(**SIMULATED)
    next(host.fingerprints())
    reads, goes_on = threading.Event(), threading.Event()
    append = host.logs.append

    def read(line: LogLine) -> None:
        reads.set()
        goes_on.wait(PATIENCE_S)
        append(line)

    host.plugin._on_log = read
    try:
        for number in range(CHANGES):
            host.set_config({**SIMULATED, "vgpus": 3 + number % 2})
        assert reads.is_set()
        assert host.info().name == "nvidia-vgpu"
        assert next(host.fingerprints())
    finally:
        goes_on.set()
    told = host.logged_in_all("warn")
    assert sum("a new config came while serving" in line for line in told) == CHANGES


@as_root
def test_socket_directories_of_the_killed_are_swept(
    start: Start, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody listens and they are ours; those of others, and of who lives, stay."""
    place = short_path  # in /tmp another plugin of this machine may sweep
    monkeypatch.setenv("TMPDIR", str(place))
    names = ["plugin-" + f"{number:x}" * 16 for number in range(10, 15)]
    dead, starting, strangers, alive, empty = (place / name for name in names)
    listening = socket.socket(socket.AF_UNIX)
    try:
        for each in (dead, starting, strangers, alive, empty):
            each.mkdir(mode=0o700)
        for each in (dead, starting, strangers):
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(f"{each}/plugin.sock")
        listening.bind(f"{alive}/plugin.sock")
        listening.listen()
        os.chown(strangers, NOBODY, NOBODY)
        long_ago = time.time() - 600
        for each in (dead, strangers, alive, empty):
            os.utime(each, (long_ago, long_ago))
        host = start(**SIMULATED)
        assert host.plugin.endpoint.address.startswith(f"{place}/")
        deadline = time.monotonic() + PATIENCE_S
        while dead.exists() or empty.exists():
            assert time.monotonic() < deadline
            next(host.stats(0.1))
        assert starting.exists()
        assert strangers.exists()
        assert alive.exists()
    finally:
        listening.close()
        for each in (dead, starting, strangers, alive, empty):
            with contextlib.suppress(OSError):
                (each / "plugin.sock").unlink()
            with contextlib.suppress(OSError):
                each.rmdir()
