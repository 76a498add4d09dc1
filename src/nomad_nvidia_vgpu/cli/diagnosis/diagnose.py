# SPDX-License-Identifier: MPL-2.0
"""Makes all checks at once, each with a limit to its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from nomad_nvidia_vgpu.cli.diagnosis.checks import CHECKS, Check
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Finding, Verdict, error, warning
from nomad_nvidia_vgpu.cli.diagnosis.limited import Child, ChildFailedError, OverTimeError


def diagnosed(facts: Facts, limit_s: float, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """What every check says, in the order of the table; takes `limit_s` at most.

    A check says nothing when it needs something that another check reports as missing.
    """
    deadline = time.monotonic() + limit_s
    with ExitStack() as stack:
        started = [(check, stack.enter_context(Child(_made(check, facts)))) for check in checks]
        return [
            Finding(check.subject, check.name, *verdict)
            for check, child in started
            for verdict in _said(child, deadline, limit_s)
        ]


def _made(check: Check, facts: Facts) -> Callable[[], list[Verdict]]:
    return lambda: list(check.look(facts))


def _said(child: Child[list[Verdict]], deadline: float, limit_s: float) -> list[Verdict]:
    try:
        return child.result(deadline)
    except OverTimeError:
        return [
            error(
                f"this could not be looked at within {limit_s:g} s",
                "see dmesg and `ps axl` for what hangs on this node, or raise --time-limit",
            )
        ]
    except ChildFailedError as failure:
        return [
            warning(
                f"this check fails ({failure})",
                "run this command as root; if it still fails, report it with this line",
            )
        ]
