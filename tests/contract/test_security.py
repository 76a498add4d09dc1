# SPDX-License-Identifier: MPL-2.0
"""What local users and odd messages cannot do to the running plugin: docs/security.md."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import grpc
import msgpack
import pytest

from nomad_nvidia_vgpu.goplugin.handshake import parse_line
from nomad_nvidia_vgpu.metrics.families import FAMILIES
from nomad_nvidia_vgpu.rpc.client import Refused

from .conftest import HANDSHAKE, PATIENCE_S, Start
from .test_go_plugin import SIMULATED, first_line, spawn
from .test_metrics import LOOPBACK, port, scrape_until

__all__ = ["port"]  # a fixture

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


def connection_of_nobody(socket: Path) -> str:
    """What becomes of a connection by a user who is neither root nor the agent's."""
    script = (  # started as root, for nobody else may have this Python
        "import os, socket\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        f"try: socket.socket(socket.AF_UNIX).connect({str(socket)!r}); print('connected')\n"
        "except OSError as error: print(error.strerror)\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    return done.stdout.strip()


@pytest.fixture
def strangers(short_path: Path) -> Path:
    """A directory of another user, where the plugin is told to put its socket."""
    place = short_path / "stranger"
    place.mkdir(mode=0o700)
    os.chown(place, NOBODY, NOBODY)
    return place


@as_root
def test_another_user_cannot_connect(start: Start) -> None:
    """Neither through the directory, nor to the socket if he were let in."""
    socket = Path(start().plugin.endpoint.address)
    assert connection_of_nobody(socket) == "Permission denied"
    socket.parent.chmod(0o755)
    assert connection_of_nobody(socket) == "Permission denied"
    socket.chmod(0o666)
    assert connection_of_nobody(socket) == "connected", "the test itself is wrong"


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_sockets_mode_is_not_the_hosts_umask(umask: int) -> None:
    """An agent with an odd umask opens the socket to nobody."""
    before = os.umask(umask)
    try:
        with spawn() as process:
            socket = Path(parse_line(HANDSHAKE, first_line(process)).address)
            assert stat.S_IMODE(socket.stat().st_mode) == 0o600
            process.terminate()
    finally:
        os.umask(before)


@as_root
@pytest.mark.parametrize("variable", ["TMPDIR", "PLUGIN_UNIX_SOCKET_DIR"])
def test_a_place_of_another_users_is_not_taken(strangers: Path, variable: str) -> None:
    """He could move our directory away and have the agent talk to a socket of his own."""
    with spawn(**{variable: str(strangers)}) as process:
        socket = Path(parse_line(HANDSHAKE, first_line(process)).address)
        assert not socket.is_relative_to(strangers)
        process.terminate()
    assert not list(strangers.iterdir())


def test_a_flood_of_streams_leaves_threads_for_the_agent(start: Start) -> None:
    """Shutdown has no deadline on the agent's side, and Reserve would fail a task."""
    host = start(**SIMULATED)
    fingerprint = host.fingerprints()
    group = next(fingerprint)[0]
    flood = [host.stats(60.0) for _ in range(100)]
    refused = 0
    for stream in flood:
        try:
            next(stream)
        except grpc.RpcError as error:
            refused += error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused >= 95
    assert next(host.fingerprints())
    assert host.reserve([group.instances[0].id]).envs
    assert host.end() == 0


ESCAPES = "\n[ERROR] forged\r\x1b]0;title\x07\x1b[31m\u202e"


@pytest.mark.parametrize(
    "ids",
    [
        [f"{ESCAPES}{n}" for n in range(100_000)],
        ["\n" * 1_000_000, "\U0001f600" * 200_000],
        [f"{'é' * 100_000}-{n}" for n in range(10)],
    ],
    ids=["many", "long", "many long ones"],
)
def test_odd_ids_are_refused_in_one_short_line(start: Start, ids: list[str]) -> None:
    """The sentence is in the task's events and in the agent's log, and must forge neither."""
    host = start(**SIMULATED)
    next(host.fingerprints())
    with pytest.raises(Refused) as caught:
        host.reserve(ids)
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.text.isprintable()
    assert len(caught.value.text) < 8_000
    assert host.info().name == "nvidia-vgpu"


@pytest.mark.parametrize(
    "config",
    [
        {"vgpus": 1, "gpu": {f"{ESCAPES}{n}": {} for n in range(1_000)}},
        {"vgpus": 1, "ignored_gpu_ids": [f"{ESCAPES}{n}" for n in range(1_000)]},
        {"vgpus": ESCAPES * 1_000},
        {"vgpus": 1, "vendor": "x" * 3_000_000},
        {"vgpus": msgpack.ExtType(5, ESCAPES.encode())},
        {"vgpus": float("nan"), "fingerprint_period": "1h" * 100_000},
    ],
    ids=["labels", "list", "value", "huge", "ext", "numbers"],
)
def test_odd_configs_are_refused_in_one_short_line(start: Start, config: object) -> None:
    """An agent that cannot read the refusal would start no plugin and not say why."""
    host = start()
    with pytest.raises(Refused) as caught:
        host.set_config_bytes(msgpack.packb(config))
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.text.isprintable()
    assert len(caught.value.text) < 8_000
    host.set_config(SIMULATED)
    assert next(host.fingerprints())


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 10_000,
        b"\x0a\x02\xff\xff",  # an id that is not UTF-8
        b"\x0a\xff\xff\xff\xff\x0f",  # an id of four GiB, by its length
        b"\x0b" * 100_000,  # groups within groups
        b"x" * 5_000_000,
    ],
    ids=["noise", "no UTF-8", "long by its length", "nested", "huge"],
)
def test_messages_that_are_none_are_refused_and_forgotten(start: Start, data: bytes) -> None:
    """Whatever comes in the place of a message, the next one is answered."""
    host = start(**SIMULATED)
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = host.plugin.channel.unary_unary(
        "/hashicorp.nomad.plugins.device.DevicePlugin/Reserve"
    )
    with pytest.raises(grpc.RpcError) as caught:
        call(data, timeout=PATIENCE_S)
    assert len(caught.value.details() or "") < 5_000
    assert host.info().name == "nvidia-vgpu"
    assert all(len(line.message) < 5_000 for line in host.logs)


def test_the_metrics_say_what_is_documented_and_no_more(start: Start, port: int) -> None:
    """Whoever reaches the address reads them, so nothing may get in by the way."""
    host = start(**SIMULATED, metrics_address=f"{LOOPBACK}:{port}")
    next(host.fingerprints())
    page = scrape_until(port, lambda p: p.all("nvidia_vgpu_gpu_info"))
    declared = {family.name: set(family.labels) for family in FAMILIES}
    for name, labels, _ in page.samples:
        if not name.startswith("process_"):
            assert labels.keys() == declared[name]
