# SPDX-License-Identifier: MPL-2.0
"""A child process that runs real `pynvml` on a fake machine, one expression at a time."""

import ast
import json
import os
import subprocess
import sys
import threading
from typing import Any

from .driver import FakeDriver

# Far above what any question takes: a child that hangs by mistake must not hang the test run.
_PATIENCE_S = 300

_CHILD = """
import ctypes, json, sys, threading, time
import pynvml as n

def fails(function, *arguments):
    "The NVML code that the call ends with, 0 for success."
    try:
        function(*arguments)
    except n.NVMLError as error:
        return error.value
    return 0

def gpu(index):
    return n.nvmlDeviceGetHandleByIndex(index)

def mig(index, slot):
    return n.nvmlDeviceGetMigDeviceHandleByIndex(gpu(index), slot)

def struct(value):
    return {name: getattr(value, name) for name, *_ in value._fields_}

def address(handle):
    return ctypes.addressof(handle.contents)

space = globals()
for line in sys.stdin:
    source = json.loads(line)
    try:
        try:
            reply = [True, repr(eval(compile(source, "<probe>", "eval"), space))]
        except SyntaxError:
            exec(source, space)
            reply = [True, "None"]
    except Exception as error:
        reply = [False, repr(error)]
    print(json.dumps(reply), flush=True)
"""


class ProbeError(Exception):
    """The child could not answer; the text is the exception it met, or its last words."""


class Probe:
    """Asks a child process about a machine, until it is closed."""

    def __init__(self, driver: FakeDriver, **environment: str) -> None:
        """Start the child; `environment` overrides what `driver` sets."""
        self._child = subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **driver.environment(), **environment},
        )
        self._watchdog = threading.Timer(_PATIENCE_S, self._child.kill)
        self._watchdog.daemon = True
        self._watchdog.start()

    @property
    def pid(self) -> int:
        """The child's process id, as it stands in the call log."""
        return self._child.pid

    def ask(self, source: str) -> Any:
        """Return the value of an expression in the child, None after running a statement.

        There `n` is pynvml and `fails`, `gpu`, `mig`, `struct` and `address` are at hand. Raises
        ProbeError for any exception.
        """
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(source) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise ProbeError(f"the child ended with {self._child.wait()}")
        fine, text = json.loads(line)
        if not fine:
            raise ProbeError(text)
        return ast.literal_eval(text)

    def close(self) -> None:
        """End the child, whatever its threads are doing."""
        # Not a polite end of input: a thread of the child may still hang inside the library.
        self._child.kill()
        self._child.communicate()
        self._watchdog.cancel()
