# SPDX-License-Identifier: MPL-2.0
"""What go-plugin's host relies on: handshake, streams, logs, and the end."""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nomad_nvidia_vgpu.goplugin.handshake import host_environment, parse_line
from nomad_nvidia_vgpu.goplugin.server import MOST_STREAMS

from .conftest import HANDSHAKE, PATIENCE_S, PROGRAM, Start, Started

SIMULATED = {"vgpus": 2, "simulate": ["t4:2"]}


@contextmanager
def spawn(**environment: str) -> Iterator[subprocess.Popen[str]]:
    """The program as Nomad starts it, without our host side; killed if a test leaves it."""
    with subprocess.Popen(
        [str(PROGRAM)],
        env={**os.environ, **host_environment(HANDSHAKE), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def first_line(process: subprocess.Popen[str]) -> str:
    """The handshake."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], PATIENCE_S)[0], "no handshake"
    return process.stdout.readline()


def serving(channel: grpc.Channel) -> bool:
    """What go-plugin's health check would find."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service="plugin"), timeout=PATIENCE_S)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def test_the_handshake_is_one_line_of_five_fields_and_all_that_stdout_ever_carries() -> None:
    """Anything else on standard output would be taken for the handshake, or fill the pipe."""
    with spawn() as process:
        line = first_line(process)
        assert line.endswith("|grpc\n")
        assert line.startswith("1|2|unix|/")
        assert line.count("|") == 4
        assert Path(f"/proc/{process.pid}/fd/1").readlink() == Path("/dev/null")
        process.terminate()
        rest, errors = process.communicate(timeout=PATIENCE_S)
    assert rest == ""
    assert errors == ""
    assert process.returncode == 0


@pytest.mark.parametrize("cookie", [None, "not the cookie"])
def test_a_person_who_starts_it_reads_help(cookie: str | None) -> None:
    """Without Nomad's cookie it explains itself on standard error, and never with a traceback."""
    environment = {k: v for k, v in os.environ.items() if k != HANDSHAKE.cookie_key}
    if cookie:
        environment[HANDSHAKE.cookie_key] = cookie
    done = subprocess.run(
        [str(PROGRAM)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "plugin_dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_we_can_enter_the_sockets_directory_and_it_is_gone_afterwards(start: Start) -> None:
    """Any user who reached the socket could reserve and read stats."""
    host = start()
    directory = Path(host.plugin.endpoint.address).parent
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    host.end()
    assert not directory.exists()


@pytest.mark.parametrize("bad", ["long", "missing"])
def test_a_bad_tmpdir_does_not_stop_it(tmp_path: Path, bad: str) -> None:
    """A socket path has 107 bytes; with a TMPDIR that cannot hold it another place is found."""
    directory = tmp_path / ("x" * 120 if bad == "long" else "not there")
    if bad == "long":
        directory.mkdir()
    with spawn(TMPDIR=str(directory)) as process:
        endpoint = parse_line(HANDSHAKE, first_line(process))
        assert len(endpoint.address) <= 107
        process.terminate()


def test_the_hosts_choice_of_a_socket_directory_is_honoured(short_path: Path) -> None:
    """PLUGIN_UNIX_SOCKET_DIR is where a host that sets it can reach the socket."""
    short_path.chmod(0o700)
    with spawn(PLUGIN_UNIX_SOCKET_DIR=str(short_path)) as process:
        endpoint = parse_line(HANDSHAKE, first_line(process))
        assert Path(endpoint.address).is_relative_to(short_path)
        process.terminate()
    assert list(short_path.iterdir()) == []


def test_it_is_healthy_under_the_name_plugin(start: Start) -> None:
    """go-plugin's health check asks for the service `plugin`."""
    assert serving(start().plugin.channel)


@pytest.mark.parametrize("package", ["plugin", "proto"])
def test_shutdown_ends_it_under_both_names(start: Start, package: str) -> None:
    """With every stream open that a host opens; Nomad 0.9.0 to 0.10.1 calls the second name."""
    host = start(**SIMULATED)
    channel = host.plugin.channel
    start_stream: Any = channel.stream_stream(f"/{package}.GRPCBroker/StartStream")
    stream_stdio: Any = channel.unary_stream("/plugin.GRPCStdio/StreamStdio")
    broker, stdio = start_stream(held_open(host)), stream_stdio(b"")
    fingerprints, stats = host.fingerprints(), host.stats(0.1)
    next(fingerprints)
    next(stats)
    assert host.end(package) == 0
    for stream in (broker, stdio):
        with pytest.raises(grpc.RpcError):
            next(stream)
    assert host.logged_in_all("error") == []


def held_open(host: Started) -> Iterator[bytes]:
    """The host's side of the broker stream: open, and never used."""
    host.plugin.process.wait()
    yield b""


def test_shutdown_finds_a_thread_however_many_streams_are_open(start: Start) -> None:
    """The host calls it without a deadline, so a full thread pool would hang the agent."""
    host = start(**SIMULATED)
    fingerprints = [host.fingerprints() for _ in range(MOST_STREAMS)]
    stats = [host.stats(60.0) for _ in range(MOST_STREAMS)]
    assert all(next(stream) for stream in fingerprints)
    for stream in stats:
        next(stream)  # empty where nothing was measured yet
    assert host.end() == 0


def test_ctrl_c_in_the_agents_terminal_does_not_end_it(start: Start) -> None:
    """SIGINT reaches the whole process group; a plugin that dies of it would be restarted."""
    host = start()
    host.plugin.process.send_signal(signal.SIGINT)
    assert host.info().name == "nvidia-vgpu"
    host.plugin.process.send_signal(signal.SIGTERM)
    assert host.plugin.process.wait(PATIENCE_S) == 0


def test_every_line_on_stderr_is_hclog_json(start: Start) -> None:
    """A host panics on an `@` key that is no string, and shows raw text at debug only."""
    with spawn() as process:
        first_line(process)
        process.terminate()
    script = (
        "import logging, sys; from nomad_nvidia_vgpu.goplugin import logs\n"
        "log = logs.configure('x', sys.stderr)\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: log.exception('two\\nlines')\n"
        "logging.getLogger('grpc').error('from a library %d', 'no number')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    entries = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(entries) == 2
    assert all(isinstance(e[k], str) for e in entries for k in ("@message", "@level", "@timestamp"))
    assert "ZeroDivisionError" in entries[0]["@message"]


def orphan(*, grace_s: float, reattachable: bool) -> tuple[psutil.Process, str]:
    """A plugin whose host has been killed: a grandchild of ours, and the path of its socket."""
    serve = (
        "import os, sys; from nomad_nvidia_vgpu.goplugin import logs, server\n"
        "from nomad_nvidia_vgpu.goplugin.handshake import Handshake\n"
        "logs.configure('nomad_nvidia_vgpu', sys.stderr)\n"
        "server.serve(Handshake('A', 'B', 2), lambda s: None, environment=os.environ,"
        " objection=lambda _: None,"
        f" orphan_grace_s={grace_s}, reattachable=lambda: {reattachable})\n"
        "os._exit(0)\n"
    )
    parent = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-c', {serve!r}], stdout=subprocess.PIPE)\n"
        "print(p.pid, p.stdout.readline().decode().strip(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as host:
        assert host.stdout is not None
        pid, line = host.stdout.readline().split(" ", 1)
        process = psutil.Process(int(pid))
        address = parse_line(HANDSHAKE, line).address
        host.kill()
        host.wait()
    return process, address


def test_an_orphan_answers_during_its_grace() -> None:
    """A restarted agent finds the old plugin, and calls Shutdown on it."""
    process, address = orphan(grace_s=3600.0, reattachable=True)
    with grpc.insecure_channel(f"unix:{address}") as channel:
        assert serving(channel)
        shutdown: Any = channel.unary_unary("/plugin.GRPCController/Shutdown")
        shutdown(b"", timeout=PATIENCE_S)
    process.wait(PATIENCE_S)
    assert not Path(address).exists()


def test_an_orphan_leaves_after_its_grace() -> None:
    """If no agent comes back, the plugin must not stay."""
    process, address = orphan(grace_s=1.5, reattachable=True)
    process.wait(PATIENCE_S)
    assert not Path(address).exists()


def test_an_orphan_that_nobody_can_come_back_to_leaves_at_once() -> None:
    """Nomad before 2.0.1 leaves a plugin running whose config it could not set."""
    process, address = orphan(grace_s=3600.0, reattachable=False)
    process.wait(PATIENCE_S)
    assert not Path(address).exists()
