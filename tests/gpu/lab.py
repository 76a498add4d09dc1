# SPDX-License-Identifier: MPL-2.0
"""What an experiment works with: a GPU, a directory of its own, and a place for its answers."""

from __future__ import annotations

import contextlib
import json
import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from gpu.clients import Client, Event
from gpu.control_tool import Daemon
from gpu.plugin_node import Plugin, plugin_config
from gpu.sweep import sweep

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

READY_S = 40.0
"""How long a client may take to open the GPU."""


class Setup(NamedTuple):
    """What the experiments are done on, and where their answers go."""

    uuid: str
    others: tuple[str, ...]
    """GPUs of the node that are left alone."""
    total_mib: int
    """As CUDA says."""
    answers: str
    """Path of the file that gets one JSON object per answer."""
    may_set_compute_mode: bool


class Lab:
    """One experiment's; a context manager that ends whatever it started."""

    def __init__(self, setup: Setup, directory: Path) -> None:
        """`directory` is empty; its path marks all processes that are started here."""
        self.setup = setup
        self.directory = directory
        self._stack = contextlib.ExitStack()
        self._made = 0

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends clients and plugins, then the daemons."""
        try:
            self._stack.close()
        finally:
            sweep(self.directory, self.log)

    def log(self, text: str) -> None:
        """Writes into the raw log."""
        print(f"{time.monotonic():.3f} {text}", flush=True)

    def answer(
        self, question: str, seen: str, *, promised: bool | None = None, g: int | None = None
    ) -> None:
        """Records what was seen. `promised`: whether it is what the plugin promises, if it does.

        `g`: which of the nine questions it answers.
        """
        self.log(f"ANSWER {question}: {seen}")
        self._record(question=question, seen=seen, promised=promised, g=g)

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Records a table."""
        self._record(table=title, header=header, rows=[[str(c) for c in row] for row in rows])

    @contextlib.contextmanager
    def part(self, question: str, *, g: int | None = None) -> Iterator[None]:
        """What fails in it is the answer to `question`, and the experiment goes on."""
        self.log(f"-- {question}")
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever it is: the next part may work
            self.log(traceback.format_exc())
            text = f"not answered: {type(error).__name__}: {error}"
            self._record(question=question, seen=text, promised=None, g=g, failed=True)

    def plain(self) -> dict[str, str]:
        """The environment of a client without MPS."""
        nowhere = self.directory / "no-daemon"
        return {"CUDA_VISIBLE_DEVICES": self.setup.uuid, "CUDA_MPS_PIPE_DIRECTORY": str(nowhere)}

    def client(
        self, environment: Mapping[str, str], *words: object, through: Sequence[str] = ()
    ) -> Client:
        """A client that is ended with the experiment; `through` is a command that runs it."""
        client = Client(self.log, str(self.directory), environment, *words, through=through)
        return self._stack.enter_context(client)

    def run(self, environment: Mapping[str, str], *words: object, within_s: float) -> Event:
        """The result of a client; Refused, Silent."""
        with Client(self.log, str(self.directory), environment, *words) as client:
            client.until("ready", READY_S)
            return client.result(within_s)

    def opens(self, environment: Mapping[str, str], within_s: float = READY_S) -> Event:
        """What a client says of the GPU that it opens; Refused, Silent."""
        with Client(self.log, str(self.directory), environment, "info") as client:
            return client.until("ready", within_s)

    def daemon(self, *flags: str) -> Daemon:
        """An MPS daemon without the plugin, running; MpsError."""
        daemon = Daemon(self._directory("d"), self.setup.uuid, self.log)
        self._stack.callback(daemon.stop)
        daemon.start(*flags)
        return daemon

    def root(self) -> Path:
        """A fresh `mps.root` for a plugin."""
        return self._directory("p") / "mps"

    def plugin(self, vgpus: int, root: Path, **mps: object) -> Plugin:
        """The plugin with MPS, its GPU healthy; TimeoutError with what it says otherwise.

        The compute mode stays as it is unless `exclusive_process` says otherwise, which needs
        leave.
        """
        exclusive = bool(mps.pop("exclusive_process", False))
        if exclusive and not self.setup.may_set_compute_mode:
            raise PermissionError("the compute mode of this GPU is not ours to set")
        config = plugin_config(
            vgpus, self.setup.others, {"root": str(root), **mps, "exclusive_process": exclusive}
        )
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("CUDA_")
        }
        plugin = Plugin(config, {**environment, "NVIDIA_VGPU_LAB": str(self.directory)}, self.log)
        self._stack.callback(plugin.stop)
        plugin.until_healthy()
        return plugin

    def _directory(self, prefix: str) -> Path:
        self._made += 1
        directory = self.directory / f"{prefix}{self._made}"
        directory.mkdir()
        directory.chmod(0o755)
        return directory

    def _record(self, **facts: Any) -> None:
        with Path(self.setup.answers).open("a") as file:
            file.write(f"{json.dumps(facts)}\n")
