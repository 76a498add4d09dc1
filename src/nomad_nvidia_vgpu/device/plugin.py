# SPDX-License-Identifier: MPL-2.0
"""The plugin as Nomad uses it: told its config, then asked for fingerprints, reservations, stats.

Nothing is started before the first fingerprint: of the three launches per agent start, two never
ask for one.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device import fingerprint, stats
from nomad_nvidia_vgpu.device.background import Background, background_of
from nomad_nvidia_vgpu.device.reserve import Reservation, node_source, reserve
from nomad_nvidia_vgpu.errors import NotBegunError, RequestError
from nomad_nvidia_vgpu.gpu.model import GpuSource
from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus
from nomad_nvidia_vgpu.gpu.watch import GpuWatch
from nomad_nvidia_vgpu.host.proc import Proc
from nomad_nvidia_vgpu.sharing.container_limit import within_means
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.state.catalog import Catalog
from nomad_nvidia_vgpu.state.tally import MADE, REFUSED, Tally

RETRY_S = 5.0
"""After this, a stream that could not begin, or failed, tries again."""

_FAILURES_UNTIL_ANSWER = 3  # about as long as GPUs are waited for

SourceOf = Callable[[Sequence[SimulatedGpus]], GpuSource]

_log = logging.getLogger(__name__)


class Plugin:
    """Nomad's three calls, joined by one catalog and what runs in the background.

    The first call begins the latter. Where that fails, the log says so once, nothing is left
    running, and each further call, or open stream every `RETRY_S`, tries again.
    """

    def __init__(
        self, source_of: SourceOf, config: PluginConfig, leave: Callable[[], None] = lambda: None
    ) -> None:
        """`source_of` makes the source of GPUs for the option `simulate`.

        `leave` is called when only a new process can go on; Nomad starts one at once.
        """
        self._leave = leave
        self._source_of = source_of
        self._config, self._untold = _decided(config)
        self._catalog = Catalog(self._config)
        self._nodes = node_source(self._config)
        self._tally = Tally()
        self._changed = threading.Condition()  # guards what follows
        self._beginning = False
        """Whether a thread builds the background; it holds no lock meanwhile."""
        self._stopped = False
        self._background: Background | None = None
        self._problem = ""

    def fingerprint(self, hang_up: "HangUp") -> Iterator[tuple[fingerprint.DeviceGroup, ...]]:
        """The stream of fingerprints; without GPUs for as long as the background cannot begin."""
        hang_up.call(self._catalog.wake)
        failures = 0
        while hang_up.listening() and not self._begun():
            failures += 1
            if failures == _FAILURES_UNTIL_ANSWER:
                yield ()
            self._catalog.wait(lambda _: not hang_up.listening(), RETRY_S)
        yield from fingerprint.stream(self._catalog, self._config.vendor, hang_up.listening)

    def reserve(self, ids: Sequence[str]) -> Reservation:
        """The reservation for these vGPUs; RequestError, NotBegunError.

        After a crash of ours Nomad may reserve before we have seen all GPUs again, and a refusal
        would fail the allocation for good: so this waits for them, as long as a fingerprint would.
        """
        self._begin()
        wanted = {vgpu.gpu_uuid for text in ids if (vgpu := VgpuId.parse(text)) is not None}
        edition = self._catalog.wait(
            lambda e: e.complete or e.settled_for(wanted), fingerprint.FIRST_ANSWER_S
        )
        try:
            reservation = reserve(self._config, edition.plan, ids, self._nodes)
        except RequestError:
            self._tally.reserved(REFUSED)
            raise
        self._tally.reserved(MADE)
        load = self._background.load if self._background else None
        if load is not None:
            load.reserved(ids)
        return reservation

    def stats(self, hang_up: "HangUp", asked_s: float) -> Iterator[tuple[stats.GroupStats, ...]]:
        """The stream of stats at the interval that the host asked for; NotBegunError."""
        watch = self._begin()
        period_s = stats.interval_s(asked_s)
        ended = threading.Event()
        hang_up.call(ended.set)
        vendor = self._config.vendor
        with watch.sampling(period_s) if watch else contextlib.nullcontext():
            yield from stats.stream(self._catalog, vendor, period_s, ended, hang_up.listening)

    def stop(self) -> None:
        """Tells the threads of the background to end."""
        with self._changed:
            self._stopped = True
            background = self._background
        if background is not None:
            background.stop()

    def _begun(self) -> bool:
        try:
            self._begin()
        except NotBegunError:
            return False
        return True

    def _begin(self) -> GpuWatch | None:
        """The watch over the hardware, begun if it is not yet; None if nothing is to be offered."""
        with self._changed:
            self._changed.wait_for(lambda: not self._beginning)
            if self._background is not None:
                return self._background.watch
            self._beginning = True
        background = None
        try:
            background = self._started()
        finally:
            with self._changed:
                self._background, self._beginning = background, False
                self._changed.notify_all()
                stopped = self._stopped
        if background is not None and stopped:
            background.stop()
        return background and background.watch

    def _started(self) -> Background | None:
        """The background, which runs; None if nothing is to be offered; NotBegunError."""
        untold, self._untold = self._untold, ()
        for sentence in untold:
            _log.warning("%s", sentence)
        if not self._config.configured:
            return None
        try:
            source = self._source_of(self._config.simulate)
            background = background_of(
                self._config, self._catalog, self._tally, source, self._leave
            )
            background.start()
        except Exception as error:
            raise self._not_begun(error) from error
        return background

    def _not_begun(self, error: Exception) -> NotBegunError:
        """What is raised for this error; logs it if it was not the last one, too."""
        if repr(error) != self._problem:
            self._problem = repr(error)
            _log.error(
                "no GPU is offered, because the plugin cannot begin to watch them: %r; it tries again"
                " every %g s: if that does not help, report this as a bug",
                error,
                RETRY_S,
                exc_info=error,
            )
        return NotBegunError(
            f"the plugin cannot begin to watch the GPUs ({error!r})", "see its log"
        )


def _decided(config: PluginConfig) -> tuple[PluginConfig, Sequence[str]]:
    """The config with what this node cannot do taken out, and for each a sentence for the log."""
    config, problems = within_means(config)
    sentences = [str(problem) for problem in problems]
    if config.memory_guard.action == "kill" and not Proc().sees_host_pids():
        config = config._replace(memory_guard=config.memory_guard._replace(action="warn"))
        sentences.append(
            'memory_guard.action is "kill", but this program does not see the pids of the host, which'
            " are the driver's, so it only warns: run the Nomad agent in the host's PID namespace"
        )
    return config, sentences


class HangUp:
    """Whether the host still listens to a stream, and what to do when it stops."""

    def __init__(self) -> None:
        """Listening."""
        self._lock = threading.Lock()
        self._listening = True
        self._calls: list[Callable[[], None]] = []

    def listening(self) -> bool:
        """False once the host has hung up."""
        return self._listening

    def call(self, act: Callable[[], None]) -> None:
        """Calls `act` when the host hangs up, or now if it has."""
        with self._lock:
            if self._listening:
                self._calls.append(act)
                return
        act()

    def hang_up(self) -> None:
        """The host has hung up."""
        with self._lock:
            self._listening = False
            calls = self._calls
        for act in calls:
            act()
