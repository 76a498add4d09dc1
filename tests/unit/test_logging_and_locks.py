# SPDX-License-Identifier: MPL-2.0
"""No log line is written while a lock is held: a log that takes its time would hold up who needs the lock.

`conftest.py` holds every unit test to that, whatever the call goes through; here it is held for the
text of the program, what no test runs included.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import nomad_nvidia_vgpu
from unit.held_locks import log_calls_under_locks

SOURCE = Path(nomad_nvidia_vgpu.__file__).parent
LOGS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
UNDER_A_LOCK = """
import logging, threading

class Teller:
    def __init__(self):
        self._lock = threading.{kind}()

    def tell(self):
        with self._lock:
            self._say()

    def tell_later(self):
        with self._lock:
            pass
        self._say()

    def wait(self):
        with self._lock:
            self._lock.wait_for(lambda: self._say() or True)

    def _say(self):
        logging.getLogger(__name__).debug("told")
"""


def _logs(node: ast.AST) -> bool:
    """Whether this is a call of a logger."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LOGS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "_log"
    )


def _called_here(node: ast.AST) -> str:
    """The name of what is called, if it is of this module: `f()` or `self.f()`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id
    if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("self."):
        return ast.unparse(node.func).removeprefix("self.")
    return ""


def under_locks(text: str) -> Iterator[int]:
    """The lines on which a log call is made under a lock, by functions of this module in between too."""
    module = ast.parse(text)
    locks = {
        ast.unparse(target)
        for node in ast.walk(module)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        if ast.unparse(node.value.func) in {"threading.Lock", "threading.Condition"}
        for target in node.targets
    }
    functions = {n.name: n for n in ast.walk(module) if isinstance(n, ast.FunctionDef)}
    logging = {name for name, node in functions.items() if any(map(_logs, ast.walk(node)))}
    while more := {
        name
        for name, node in functions.items()
        if name not in logging and logging & {_called_here(part) for part in ast.walk(node)}
    }:
        logging |= more
    for block in ast.walk(module):
        if isinstance(block, ast.With) and locks & {
            ast.unparse(item.context_expr) for item in block.items
        }:
            for part in (part for step in block.body for part in ast.walk(step)):
                if isinstance(part, ast.Call) and (_logs(part) or _called_here(part) in logging):
                    yield part.lineno


def test_no_log_call_stands_under_a_lock() -> None:
    """In no module, neither in the block itself nor in a function of the module that it calls."""
    found = [
        f"{path.relative_to(SOURCE)}:{line}"
        for path in sorted(SOURCE.rglob("*.py"))
        for line in under_locks(path.read_text())
    ]
    assert found == []


def test_a_log_call_that_stands_under_a_lock_is_found() -> None:
    """Of both forms, so that the test above can fail."""
    text = UNDER_A_LOCK.format(kind="Lock").replace("logging.getLogger(__name__)", "_log")
    assert list(under_locks(text)) == [10, 19]
    assert (
        list(under_locks(text.replace("            self._say()", "            _log.info()"))) != []
    )


@pytest.mark.parametrize("kind", ["Lock", "Condition"])
def test_a_log_call_that_is_made_under_a_lock_is_found(kind: str) -> None:
    """At any level, under a lock of our code and of no other's; not after it was let go."""
    with log_calls_under_locks() as found:
        ours = types.ModuleType("nomad_nvidia_vgpu.a_test")
        other = types.ModuleType("another_package")
        for module in (ours, other):
            exec(UNDER_A_LOCK.format(kind=kind), module.__dict__)
            module.Teller().tell_later()
        assert found == []
        other.Teller().tell()
        assert found == []
        ours.Teller().tell()
        assert len(found) == 1
        if kind == "Condition":
            ours.Teller().wait()
            assert len(found) == 2
