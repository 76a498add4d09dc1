# SPDX-License-Identifier: MPL-2.0
"""The host's side of a measurement: start the installed plugin, call it, read its process.

Answers that are only timed stay bytes: turning them into Python's objects is the host's work,
and in Nomad that is Go.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import msgpack

from bench.environment import Installation, clean_environment
from nomad_nvidia_vgpu.config.options import options
from nomad_nvidia_vgpu.cookie import COOKIE_KEY, COOKIE_VALUE, PROTOCOL_VERSION
from nomad_nvidia_vgpu.goplugin.handshake import Handshake
from nomad_nvidia_vgpu.rpc.client import Host
from nomad_nvidia_vgpu.rpc.generated import device_pb2

HANDSHAKE = Handshake(COOKIE_KEY, COOKIE_VALUE, PROTOCOL_VERSION)

_SERVICE = "/hashicorp.nomad.plugins.device.DevicePlugin"
_STUCK_S = 60.0


def simulated(gpus: int, vgpus: int) -> bytes:
    """A config with so many simulated GPUs and vGPUs on each."""
    return config(vgpus=vgpus, simulate=[f"a100-sxm4-80gb:{gpus}"])


def config(**given: object) -> bytes:
    """A config as Nomad sends it: every option, nil where none is given."""
    packed: bytes = msgpack.packb({**{o.name: None for o in options()}, **given})
    return packed


def start(installation: Installation, extra: Mapping[str, str] | None = None) -> Host:
    """The plugin, after its handshake; `extra` is added to its environment."""
    environment = {**clean_environment(), **(extra or {})}
    return Host([str(installation.program)], HANDSHAKE, environment=environment)


def stop(host: Host) -> None:
    """Ends the plugin as `Host.stop` does, and returns the moment it has ended.

    `Host.stop` asks in steps of up to 50 ms whether the process is gone.
    """
    stuck = threading.Timer(_STUCK_S, host.plugin.process.kill)
    stuck.start()
    try:
        host.plugin.shutdown()
        host.plugin.channel.close()
        status = host.plugin.process.wait()
    finally:
        stuck.cancel()
    if status != 0:
        raise RuntimeError(f"the plugin ended with status {status}")
    host.__exit__(None, None, None)


@contextlib.contextmanager
def running(
    installation: Installation, given: bytes, extra: Mapping[str, str] | None = None
) -> Iterator[Host]:
    """A plugin that has its config."""
    host = start(installation, extra)
    try:
        host.set_config_bytes(given)
        yield host
    finally:
        stop(host)


def fingerprints(host: Host) -> grpc._CallIterator[bytes]:
    """The stream of fingerprints, as bytes."""
    return _stream(host, "Fingerprint", b"")


def stats(host: Host, interval_s: float) -> grpc._CallIterator[bytes]:
    """The stream of stats, as bytes."""
    request = device_pb2.StatsRequest()
    request.collection_interval.FromNanoseconds(int(interval_s * 1e9))
    return _stream(host, "Stats", request.SerializeToString())


def _stream(host: Host, method: str, request: bytes) -> grpc._CallIterator[bytes]:
    call: grpc.UnaryStreamMultiCallable[bytes, bytes] = host.plugin.channel.unary_stream(
        f"{_SERVICE}/{method}"
    )
    return call(request)


@contextlib.contextmanager
def streaming_stats(host: Host, interval_s: float) -> Iterator[None]:
    """Within it, somebody reads stats at this interval."""
    call = stats(host, interval_s)
    next(call)
    thread = threading.Thread(target=_drain, args=(call,))
    thread.start()
    try:
        yield
    finally:
        call.cancel()
        thread.join()


def _drain(call: grpc._CallIterator[bytes]) -> None:
    with contextlib.suppress(grpc.RpcError):
        for _message in call:
            pass


def bare_s(installation: Installation) -> float:
    """How long the interpreter alone takes to start and end, started as the plugin is."""
    began = time.perf_counter()
    with subprocess.Popen(
        [str(installation.python), "-I", "-c", "pass"],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.wait()
        return time.perf_counter() - began


def resident_mb(host: Host) -> float:
    """The plugin's resident memory in MB (10^6 bytes)."""
    status = Path(f"/proc/{host.plugin.process.pid}/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e6


def cpu_s(host: Host) -> float:
    """The processor time that the plugin has used, in steps of a clock tick (10 ms)."""
    stat = Path(f"/proc/{host.plugin.process.pid}/stat").read_text(encoding="utf-8")
    fields = stat.rpartition(")")[2].split()  # the name before it may hold blanks
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
