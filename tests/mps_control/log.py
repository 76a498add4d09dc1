# SPDX-License-Identifier: MPL-2.0
"""Log files in the form of the real ones."""

import os
import time
from contextlib import suppress
from pathlib import Path


class Log:
    """One log file; lines that cannot be written are lost."""

    def __init__(self, path: Path, role: str) -> None:
        """`role` is the word that each line names the writer by."""
        self._path = path
        self._role = role

    def write(self, text: str) -> None:
        """Append one line."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        line = f"[{stamp}.{int(now * 1000) % 1000:03} {self._role} {os.getpid():>5}] {text}\n"
        with suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(line)
