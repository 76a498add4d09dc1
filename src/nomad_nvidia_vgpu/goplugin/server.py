# SPDX-License-Identifier: MPL-2.0
"""The plugin's side of go-plugin: socket, services, handshake line, and an orderly end.

What Nomad expects of each: docs/internals/nomad.md
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import grpc

from nomad_nvidia_vgpu.goplugin import controller
from nomad_nvidia_vgpu.goplugin.decoding import Decoding
from nomad_nvidia_vgpu.goplugin.handshake import (
    SOCKET_DIR_ENV,
    Endpoint,
    Handshake,
    HandshakeError,
    format_line,
    unsupported_versions,
)
from nomad_nvidia_vgpu.goplugin.late import Handlers, LateService
from nomad_nvidia_vgpu.goplugin.leftovers import NAME, SOCKET, sweep
from nomad_nvidia_vgpu.goplugin.streams import StreamLimit
from nomad_nvidia_vgpu.goplugin.workers import Workers

WORKERS = 32
"""Threads for calls. Each open stream holds one (four in a healthy session, more after stream
errors), and Shutdown has no deadline on the host's side, so it must always find a free one."""
MOST_STREAMS = 5
"""Of each method; there are five that stream: three of go-plugin's, Fingerprint and Stats."""

Objection = Callable[[str], "str | None"]
"""Which other user could replace a directory, as half a sentence; None: no other."""

ORPHAN_GRACE_S = 60.0
"""How long the plugin outlives its host, so that a restarted host can still reattach."""

_STOP_GRACE_S = 0.5  # the host kills the process 2 s after Shutdown
_PARENT_CHECK_S = 1.0
_MAX_SOCKET_PATH = 107  # bytes in sun_path, less the closing NUL

_log = logging.getLogger(__name__)


def serve(  # noqa: PLR0913  each is a decision of the application
    handshake: Handshake,
    register: Callable[[grpc.Server], None],
    *,
    environment: Mapping[str, str],
    objection: Objection,
    reattachable: Callable[[], bool] = lambda: True,
    orphan_grace_s: float = ORPHAN_GRACE_S,
) -> None:
    """Serves until the host says Shutdown, SIGTERM comes, or the host has been dead for a grace.

    `register` adds the application's services; it runs before anything listens. `reattachable`
    says whether a restarted host might come back to this process; if not, there is no grace.
    `objection` is asked about the directory that is to hold the socket; it may raise OSError.
    HandshakeError if there is no place for the socket. The caller should leave with `os._exit`
    afterwards, because threads may still be stuck in a driver.
    """
    stop = Stop()
    stop.set_at(signal.SIGTERM)
    parent = os.getppid()
    # Ctrl-C reaches the whole process group; a plugin that dies of it is restarted by a host
    # that is itself about to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (listed := unsupported_versions(handshake, environment)) is not None:
        _log.warning(
            "the host speaks protocol versions %s, this plugin %d: the host will refuse it",
            listed,
            handshake.protocol_version,
        )
    with _socket_directory(environment, objection) as directory:
        path = f"{directory}/{SOCKET}"
        server = grpc.server(
            Workers(WORKERS),  # type: ignore[arg-type]  # any executor will do
            interceptors=[Decoding(), StreamLimit(MOST_STREAMS)],
            options=(("grpc.so_reuseport", 0),),
        )
        controller.add_services(server, stop.set)
        server.add_generic_rpc_handlers((LateService("grpc.health.v1.Health", _health),))
        register(server)
        server.add_insecure_port(f"unix:{path}")
        os.chmod(path, 0o600)  # noqa: PTH101  whatever the host's umask is
        server.start()
        _print_once(format_line(handshake, Endpoint("unix", path)))
        with contextlib.suppress(RuntimeError):  # there is no memory for a thread
            place = os.path.dirname(directory)  # noqa: PTH120  as below
            threading.Thread(target=sweep, args=(place,), name="sweep", daemon=True).start()
        _wait(stop, parent, lambda: orphan_grace_s if reattachable() else 0.0)
        with contextlib.suppress(RuntimeError):  # there is no memory for a thread
            server.stop(_STOP_GRACE_S).wait(timeout=2 * _STOP_GRACE_S)


def _health() -> Handlers:
    from nomad_nvidia_vgpu.goplugin import health_service  # noqa: PLC0415  see `late`

    return health_service.handlers()


@contextlib.contextmanager
def _socket_directory(environment: Mapping[str, str], objection: Objection) -> Iterator[str]:
    """A fresh directory that only we can enter, removed afterwards."""
    directory = _make_directory(environment, objection)
    try:
        yield directory
    finally:
        with contextlib.suppress(OSError):
            for entry in os.listdir(directory):  # noqa: PTH208  as above
                os.unlink(f"{directory}/{entry}")  # noqa: PTH108  as above
            os.rmdir(directory)  # noqa: PTH106  as above


def _make_directory(environment: Mapping[str, str], objection: Objection) -> str:
    """A fresh directory, in a place from which nobody else can take it away.

    Another user could then put a socket where the host expects ours.
    """
    problems = []
    candidates = (environment.get(SOCKET_DIR_ENV), environment.get("TMPDIR"), "/tmp", "/run")  # noqa: S108
    for given in filter(None, candidates):
        parent = os.path.realpath(given)  # a link could be turned once it has been judged
        # Neither tempfile nor pathlib: they cost 6 ms of imports in each of three starts.
        directory = f"{parent}/{NAME}{os.urandom(8).hex()}"
        if len(os.fsencode(f"{directory}/{SOCKET}")) > _MAX_SOCKET_PATH or not _spellable(parent):
            problems.append(f"{parent!r} is too long, or holds a '|', for a socket path")
            continue
        try:
            os.mkdir(directory, mode=0o700)  # noqa: PTH102  as above
        except OSError as error:
            problems.append(f"{parent}: {error.strerror}")
            continue
        try:
            why = objection(directory)
        except OSError as error:
            why = f"{parent}: {error.strerror}"
        if why is None:
            return directory
        with contextlib.suppress(OSError):  # who owns the place may have moved it away
            os.rmdir(directory)  # noqa: PTH106  as above
        problems.append(why)
    raise HandshakeError(
        f"no directory for the plugin's socket ({'; '.join(problems)}): "
        "set TMPDIR to a short, writable directory of the agent's user"
    )


def _spellable(path: str) -> bool:
    """Whether the handshake, one line of fields, can carry it."""
    return path.isprintable() and "|" not in path


def _print_once(line: str) -> None:
    """Points standard output at nothing, and writes the handshake to where it pointed before.

    The host reads no more of it than it must: a chatty library would fill the pipe and block.
    """
    host = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    os.write(host, f"{line}\n".encode())
    os.close(host)


_NOTHING = dict[
    object, object
]().get  # with the number and the frame: it is of C, and gives the frame


class Stop:
    """What ends the plugin; takes no lock, so that a signal may set it at any time.

    `threading.Event` takes one, and a second signal that comes meanwhile would wait for ever.
    """

    def __init__(self) -> None:
        """Is not set."""
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    def set_at(self, number: signal.Signals) -> None:
        """Is set by this signal, without a line of Python that another signal could interrupt."""
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        signal.signal(number, _NOTHING)

    def set(self) -> None:
        """Ends all waiting, now and later."""
        with contextlib.suppress(BlockingIOError):  # it has been set very often
            os.write(self._writer, b"!")

    def wait(self, timeout: float) -> bool:
        """Whether it is set, now or within `timeout` seconds."""
        return bool(select.select([self._reader], [], [], timeout)[0])


class _Waiting(Protocol):
    def wait(self, timeout: float) -> bool:
        """As `Stop.wait`."""


def _wait(stop: _Waiting, parent: int, grace_s: Callable[[], float]) -> None:
    """Returns on `stop`, or when the process that started us has been gone for the grace.

    Not PR_SET_PDEATHSIG: it fires when the *thread* that forked us ends, and Go's threads do.
    """
    orphan_since: float | None = None
    while not stop.wait(timeout=_PARENT_CHECK_S):
        if os.getppid() == parent:
            continue
        if orphan_since is None:
            orphan_since = time.monotonic()
            _log.warning("the host is gone: waiting %g s for another to attach", grace_s())
        if time.monotonic() - orphan_since >= grace_s():
            return
