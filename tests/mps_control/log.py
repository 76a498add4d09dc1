# SPDX-License-Identifier: MPL-2.0
"""Log files in the form of the real ones."""

import os
import select
import sys
import time
from contextlib import suppress
from pathlib import Path

_PIPE_BYTES = 65536


class Log:
    """One log file; lines that cannot be written are lost."""

    def __init__(self, path: Path | None, role: str, fifo: Path | None = None) -> None:
        """`role` is the word that each line names the writer by; no `path` is standard output.

        Every line goes through `fifo`. What anybody else writes into it stops the logs for good,
        and a writer waits for ever once it is full.
        """
        self._path = path
        self._role = role
        self._fifo_fd = None if fifo is None else os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        self._stuck = 0

    def write(self, text: str) -> None:
        """Append one line for each of `text`."""
        for line in text.splitlines() or [""]:
            self._write(line)

    def _write(self, text: str) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        line = f"[{stamp}.{int(now * 1000) % 1000:03} {self._role} {os.getpid():>5}] {text}\n"
        if self._fifo_fd is not None and select.select([self._fifo_fd], [], [], 0)[0]:
            self._stuck += len(line)
            while self._stuck > _PIPE_BYTES:
                time.sleep(3600)
            return
        if self._path is None:
            sys.stdout.write(line)
            sys.stdout.flush()
            return
        with suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(line)
