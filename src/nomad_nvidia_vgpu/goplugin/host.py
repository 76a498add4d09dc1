# SPDX-License-Identifier: MPL-2.0
"""The host's side of go-plugin: start a plugin, read its handshake, speak to it, stop it.

Does in Python what Nomad's agent does in Go, so that tools and tests meet the plugin as the
agent would.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, NamedTuple

import grpc

from nomad_nvidia_vgpu.goplugin.handshake import (
    Endpoint,
    Handshake,
    HandshakeError,
    host_environment,
    parse_line,
)

START_TIMEOUT_S = 60.0
KILL_AFTER_S = 2.0
"""How long go-plugin waits for the process to end after Shutdown before it kills it."""

_MAX_LINE = 64 * 1024

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on


class LogLine(NamedTuple):
    """One line of a plugin's standard error, as a host understands it."""

    level: str
    message: str
    fields: Mapping[str, object]


class Stopped(NamedTuple):
    """How a plugin ended."""

    seconds: float
    """From the Shutdown call to the end of the process."""
    returncode: int
    """The exit status; negative when a signal ended it."""
    killed: bool
    """Whether it had to be killed."""


class PluginProcess:
    """A running plugin and the gRPC channel to it; a context manager that stops it."""

    def __init__(
        self,
        command: Sequence[str],
        handshake: Handshake,
        *,
        environment: Mapping[str, str] | None = None,
        on_log: Callable[[LogLine], None] | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        """Starts `command` and waits for its handshake.

        `environment` is the host's own (default: this process's); the cookie is added to it.
        `on_log` gets each line of standard error, from a thread of its own. HandshakeError if
        the plugin cannot be started, ends, keeps silent for `start_timeout_s`, or prints
        something else.
        """
        base = os.environ if environment is None else environment
        self._on_log = on_log
        self.process = _started(command, {**base, **host_environment(handshake)})
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._threads = [self._in_thread(self._read_logs, self.process.stderr)]
        try:
            line = _first_line(self.process, self.process.stdout, start_timeout_s)
            self.endpoint: Endpoint = parse_line(handshake, line)
        except HandshakeError as error:
            self._end_process()
            raise HandshakeError(
                f"{command[0]} does not start as a plugin does: {error}; give a Nomad device plugin"
            ) from error
        self._threads.append(self._in_thread(_drain, self.process.stdout))
        target = self.endpoint.address
        if self.endpoint.network == "unix":
            target = f"unix:{target}"
        self.channel = grpc.insecure_channel(target, options=(("grpc.enable_http_proxy", 0),))

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops the plugin if it still runs."""
        if self.process.poll() is None:
            self.stop()
        else:
            self.channel.close()
            self._join()

    def shutdown(self, package: str = "plugin", timeout_s: float = 10.0) -> None:
        """Calls Shutdown under one of its two names; grpc.RpcError if that fails."""
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(
            f"/{package}.GRPCController/Shutdown"
        )
        call(b"", timeout=timeout_s)

    def stop(self) -> Stopped:
        """Ends the plugin as go-plugin does: Shutdown, close, wait 2 s, kill."""
        began = time.monotonic()
        with contextlib.suppress(grpc.RpcError):
            self.shutdown()
        self.channel.close()
        killed = self._end_process(KILL_AFTER_S)
        return Stopped(time.monotonic() - began, self.process.returncode, killed)

    def _end_process(self, patience_s: float = 0.2) -> bool:
        killed = False
        try:
            self.process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            killed = True
        self._join()
        return killed

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(timeout=5.0)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def _in_thread(self, work: Callable[[IO[bytes]], None], stream: IO[bytes]) -> threading.Thread:
        thread = threading.Thread(target=work, args=(stream,), daemon=True)
        thread.start()
        return thread

    def _read_logs(self, stream: IO[bytes]) -> None:
        for raw in iter(lambda: stream.readline(_MAX_LINE), b""):
            if self._on_log is not None:
                self._on_log(parse_log_line(raw.decode(errors="replace")))


def parse_log_line(line: str) -> LogLine:
    """What go-plugin's host would make of one line of standard error.

    ValueError where a real host would panic: on an `@` key that is not a string.
    """
    text = line.rstrip("\n")
    try:
        entry = json.loads(text)
    except ValueError:
        return LogLine("debug", text, {})
    if not isinstance(entry, dict):
        return LogLine("debug", text, {})
    for key in ("@message", "@level", "@timestamp"):
        if key in entry and not isinstance(entry[key], str):
            raise ValueError(f"{key} is not a string, which makes a real host panic: {text}")
    fields = {k: v for k, v in entry.items() if not k.startswith("@")}
    return LogLine(entry.get("@level", "debug"), entry.get("@message", ""), fields)


def _started(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603  starting what we are told to is the job
            list(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise HandshakeError(
            f"{command[0]} cannot be started: {error.strerror}; a plugin must be a program for this"
            " machine that may be executed"
        ) from error


def _first_line(process: subprocess.Popen[bytes], stdout: IO[bytes], timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    received = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        while b"\n" not in received:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not selector.select(remaining):
                process.kill()
                raise HandshakeError(f"it printed no handshake in {timeout_s:g} s, and was killed")
            chunk = os.read(stdout.fileno(), 4096)
            if not chunk:
                raise HandshakeError("it ended before it printed a handshake")
            received += chunk
    return received.split(b"\n", 1)[0].decode(errors="replace")


def _drain(stream: IO[bytes]) -> None:
    while stream.read(4096):
        pass
