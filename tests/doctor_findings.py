# SPDX-License-Identifier: MPL-2.0
"""What a doctor says of the node of a test, among all that it says of the machine."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import this_run

_DAEMON = re.compile(r"\(pid \d+, (\S+)\)|\(pid \d+\) runs for ([^ ,]+)")
"""What names an MPS daemon or server that runs, by its pipe directory."""

_TASK = re.compile(r"task \S+ of allocation ")


def own_findings(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The findings but those of daemons and tasks of others: it looks at all processes.

    No test that asks for this has tasks of its own.
    """
    return [found for found in document["findings"] if not _of_others(found["sentence"])]


def _of_others(sentence: str) -> bool:
    if _TASK.match(sentence):
        return True
    found = _DAEMON.search(sentence)
    pipe = found and (found[1] or found[2])
    return pipe is not None and not Path(pipe).is_relative_to(this_run.short_folder())
