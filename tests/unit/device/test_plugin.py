# SPDX-License-Identifier: MPL-2.0
"""The plugin as Nomad uses it."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import pytest

from nomad_nvidia_vgpu.config.blocks import HealthConfig, MemoryGuardConfig
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device import background, plugin
from nomad_nvidia_vgpu.device.plugin import HangUp, Plugin
from nomad_nvidia_vgpu.device.reserve import Reservation
from nomad_nvidia_vgpu.errors import NotBegunError, RequestError, StaleLibraryError
from nomad_nvidia_vgpu.gpu.model import GpuSource
from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus
from nomad_nvidia_vgpu.gpu.watch import GpuWatch
from nomad_nvidia_vgpu.host.proc import Proc
from nomad_nvidia_vgpu.tasks.accountant import Accountant
from unit.example_gpus import gpu
from unit.gpu.scripted_source import ScriptedSource
from unit.manual_clock import DEADLINE_S

CONFIG = PluginConfig(
    vgpus=2,
    vendor="nvidia",
    simulate=(SimulatedGpus("l4", 1),),
    memory_guard=MemoryGuardConfig("off"),
)

unpublished = pytest.mark.parametrize(
    "tried", [PluginConfig(), PluginConfig(vgpus=2, enabled=False)], indirect=True
)


class Tried:
    """A plugin over a scripted source, and what it was to simulate, for each source that was made."""

    def __init__(self, config: PluginConfig) -> None:
        """Starts nothing."""
        self.source = ScriptedSource(gpu("GPU-a"))
        self.sources_for: list[Sequence[SimulatedGpus]] = []
        self.failure: Exception | None = None
        """What is raised in place of making a source."""
        self.left = threading.Event()
        self.plugin = Plugin(self._source_of, config, self.left.set)

    @property
    def watch(self) -> GpuWatch:
        """The watch, which has begun."""
        assert self.plugin._background is not None
        return self.plugin._background.watch

    def _source_of(self, simulate: Sequence[SimulatedGpus]) -> GpuSource:
        self.sources_for.append(simulate)
        if self.failure is not None:
            raise self.failure
        return self.source


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Iterator[Tried]:
    """Gives a plugin; ends its threads after the test."""
    before = set(threading.enumerate())
    made = Tried(getattr(request, "param", CONFIG))
    yield made
    made.plugin.stop()
    made.source.release()
    for thread in set(threading.enumerate()) - before:
        thread.join(DEADLINE_S)


def test_a_plugin_alone_touches_no_hardware(tried: Tried) -> None:
    """Before the first call no source of GPUs is made."""
    assert tried.sources_for == []


def test_the_first_fingerprint_begins_the_watch(tried: Tried) -> None:
    """The first fingerprint finds the GPUs, divided as the config says."""
    (group,) = next(tried.plugin.fingerprint(HangUp()))
    assert (group.vendor, group.name) == ("nvidia", "NVIDIA L4")
    assert [instance.id for instance in group.instances] == ["GPU-a-0", "GPU-a-1"]


def test_all_streams_share_one_watch(tried: Tried) -> None:
    """However many streams are opened, the hardware is watched once."""
    for _ in range(3):
        next(tried.plugin.fingerprint(HangUp()))
        next(tried.plugin.stats(HangUp(), 1.0))
    assert tried.sources_for == [CONFIG.simulate]


@unpublished
def test_a_plugin_that_publishes_nothing_touches_nothing(tried: Tried) -> None:
    """With a config that publishes nothing, no hardware is looked at, whatever is called."""
    assert next(tried.plugin.fingerprint(HangUp())) == ()
    assert next(tried.plugin.stats(HangUp(), 1.0)) == ()
    with pytest.raises(RequestError):
        tried.plugin.reserve(["GPU-a-0"])
    assert tried.sources_for == []


def test_what_is_published_can_be_reserved(tried: Tried) -> None:
    """A vGPU of the fingerprint can be reserved, and no other."""
    next(tried.plugin.fingerprint(HangUp()))
    assert tried.plugin.reserve(["GPU-a-1"]).envs["NVIDIA_VISIBLE_DEVICES"] == "GPU-a"
    with pytest.raises(RequestError):
        tried.plugin.reserve(["GPU-a-2"])


def test_a_reservation_waits_for_the_gpus(tried: Tried) -> None:
    """After a crash, a reservation that comes before any fingerprint is granted when they answer."""
    tried.source.hang("look 0")
    granted: list[Reservation] = []
    reserving = threading.Thread(
        target=lambda: granted.append(tried.plugin.reserve(["GPU-a-0"])), daemon=True
    )
    reserving.start()
    tried.source.wait_until_hanging("look 0")
    assert not granted
    tried.source.release("look 0")
    reserving.join(DEADLINE_S)
    assert [dict(r.envs)["NVIDIA_VGPU_IDS"] for r in granted] == ["GPU-a-0"]


def test_stats_do_not_wait_for_the_driver(tried: Tried) -> None:
    """While the driver hangs, stats are answered all the same."""
    tried.source.hang("open")
    assert next(tried.plugin.stats(HangUp(), 1.0)) == ()
    tried.source.wait_until_hanging("open")
    assert next(tried.plugin.stats(HangUp(), 1.0)) == ()


def test_a_fingerprint_that_waits_for_the_driver_can_be_ended(tried: Tried) -> None:
    """A host that hangs up while the driver hangs ends the stream at once."""
    tried.source.hang("open")
    hang_up = HangUp()
    listening = threading.Thread(
        target=lambda: list(tried.plugin.fingerprint(hang_up)), daemon=True
    )
    listening.start()
    tried.source.wait_until_hanging("open")
    hang_up.hang_up()
    listening.join(DEADLINE_S)
    assert not listening.is_alive()


def test_stats_make_samples(tried: Tried) -> None:
    """While a stream of stats is open, the GPUs are sampled at its interval, and then no more."""
    next(tried.plugin.fingerprint(HangUp()))
    with contextlib.closing(tried.plugin.stats(HangUp(), 0.01)) as stats:  # type: ignore[type-var]
        next(stats)
        tried.source.wait_for_more("sample 0", 3)
        assert tried.watch._samples._intervals_s == [0.01]
    assert tried.watch._samples._intervals_s == []


def test_an_open_stream_ends_when_the_host_hangs_up(tried: Tried) -> None:
    """Both streams, while they wait, end at once when the host hangs up."""
    hang_up = HangUp()
    streams = (tried.plugin.fingerprint(hang_up), tried.plugin.stats(hang_up, 3600.0))
    for stream in streams:
        next(stream)
    rest = [threading.Thread(target=list, args=(stream,), daemon=True) for stream in streams]
    for thread in rest:
        thread.start()
    hang_up.hang_up()
    for thread in rest:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def test_hanging_up_is_told_to_all() -> None:
    """All that asked to be told are told, and those that ask later at once."""
    told: list[str] = []
    hang_up = HangUp()
    hang_up.call(lambda: told.append("first"))
    hang_up.call(lambda: told.append("second"))
    assert hang_up.listening()
    assert not told
    hang_up.hang_up()
    hang_up.call(lambda: told.append("late"))
    assert not hang_up.listening()
    assert told == ["first", "second", "late"]


def test_a_replaced_driver_ends_the_process(tried: Tried) -> None:
    """When only a new process can use the driver, the plugin asks to leave."""
    tried.source.driver(StaleLibraryError("the driver was replaced"))
    hang_up = HangUp()
    stream = tried.plugin.fingerprint(hang_up)
    threading.Thread(target=next, args=(stream, None), daemon=True).start()
    assert tried.left.wait(DEADLINE_S)
    hang_up.hang_up()


@pytest.mark.parametrize(
    "tried",
    [
        CONFIG._replace(health=HealthConfig(end_tasks=True)),
        CONFIG._replace(memory_guard=MemoryGuardConfig("warn")),
    ],
    indirect=True,
)
def test_who_acts_on_processes_has_them_listed(tried: Tried) -> None:
    """With a memory guard, or tasks to be ended, GPUs are sampled though nobody wants stats."""
    next(tried.plugin.fingerprint(HangUp()))
    tried.source.wait_for_calls("processes 0", 2)


@pytest.fixture
def host_pids(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Gives whether this program sees the pids of the host."""
    monkeypatch.setattr(Proc, "sees_host_pids", lambda _: request.param)
    return bool(request.param)


@pytest.mark.parametrize("host_pids", [True, False], indirect=True)
@pytest.mark.parametrize(
    "tried", [CONFIG._replace(memory_guard=MemoryGuardConfig("kill"))], indirect=True
)
def test_a_guard_that_cannot_be_sure_promises_nothing(
    host_pids: bool,  # noqa: FBT001  a fixture
    tried: Tried,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where pids may mean other processes, "kill" only warns, and jobs are not told otherwise."""
    (group,) = next(tried.plugin.fingerprint(HangUp()))
    assert group.attributes["memory_isolation"].value == ("guard" if host_pids else "none")
    assert any("it only warns" in message for message in caplog.messages) is not host_pids


@pytest.mark.parametrize("tried", [CONFIG._replace(metrics_address="[::1]:9400")], indirect=True)
def test_metrics_are_served_from_the_first_fingerprint_on(
    tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an address they are served once, however many streams there are, and not before."""
    began = threading.Semaphore(0)
    addresses: list[str] = []

    def serve(config: PluginConfig, *_: object) -> None:
        addresses.append(config.metrics_address)
        began.release()

    monkeypatch.setattr(background, "serve_metrics", serve)
    assert not addresses
    for _ in range(2):
        next(tried.plugin.fingerprint(HangUp()))
        next(tried.plugin.stats(HangUp(), 1.0))
    assert began.acquire(timeout=DEADLINE_S)
    assert addresses == ["[::1]:9400"]


def test_reservations_are_counted(tried: Tried) -> None:
    """Those that were made, and those that were refused."""
    tried.plugin.reserve(["GPU-a-1"])
    with pytest.raises(RequestError):
        tried.plugin.reserve(["GPU-a-2"])
    assert tried.plugin._tally.reservations == {"made": 1, "refused": 1}


@pytest.mark.parametrize(
    "tried", [CONFIG._replace(publish_load=True, group_by="gpu")], indirect=True
)
def test_a_reservation_is_part_of_the_load(tried: Tried) -> None:
    """So that the next task is placed with it in mind."""
    tried.plugin.reserve(["GPU-a-1"])
    catalog = tried.plugin._catalog
    edition = catalog.wait(lambda e: e.plan.groups[0].gpus[0].free == 1, DEADLINE_S)
    assert edition.plan.groups[0].gpus[0].held == frozenset({1})


def own_threads(before: set[threading.Thread]) -> list[str]:
    """Gives the names of the threads that were started since, when those told to end have ended."""
    for thread in set(threading.enumerate()) - before:
        thread.join(DEADLINE_S)
    return [thread.name for thread in set(threading.enumerate()) - before]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets streams try again at once."""
    monkeypatch.setattr(plugin, "RETRY_S", 1 / 256)


@pytest.mark.usefixtures("impatient")
def test_a_fingerprint_that_cannot_begin_goes_on_without_gpus(
    tried: Tried, caplog: pytest.LogCaptureFixture
) -> None:
    """The host is answered, the log says once why there are no GPUs, and they come when it can be."""
    tried.failure = ImportError("no pynvml here")
    stream = tried.plugin.fingerprint(HangUp())
    assert next(stream) == ()
    assert len(tried.sources_for) > 1
    tried.failure = None
    (group,) = next(stream)
    assert group.name == "NVIDIA L4"
    (told,) = caplog.messages
    assert "no GPU is offered" in told
    assert "no pynvml here" in told


@pytest.mark.usefixtures("impatient")
def test_a_host_can_hang_up_on_a_fingerprint_that_cannot_begin(tried: Tried) -> None:
    """The stream ends, whether it waits or not."""
    tried.failure = ImportError("no pynvml here")
    hang_up = HangUp()
    stream = tried.plugin.fingerprint(hang_up)
    next(stream)
    hang_up.hang_up()
    assert list(stream) == []


def test_each_call_tries_to_begin_anew(tried: Tried, caplog: pytest.LogCaptureFixture) -> None:
    """A call that cannot begin says why and leaves nothing behind; the next may have more luck."""
    tried.failure = ImportError("no pynvml here")
    for _ in range(2):
        with pytest.raises(NotBegunError, match="no pynvml here"):
            tried.plugin.reserve(["GPU-a-0"])
        with pytest.raises(NotBegunError, match="no pynvml here"):
            next(tried.plugin.stats(HangUp(), 1.0))
    assert len(caplog.messages) == 1
    tried.failure = None
    tried.plugin.reserve(["GPU-a-0"])


@pytest.mark.parametrize("failing", [Accountant, GpuWatch])
def test_what_cannot_be_started_whole_is_not_started(
    tried: Tried, failing: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When one thread cannot be started, those that were are told to end."""
    before = set(threading.enumerate())
    with monkeypatch.context() as broken:
        started = failing.start  # type: ignore[attr-defined]

        def start(*args: object) -> None:
            started(*args)
            raise RuntimeError("can't start new thread")

        broken.setattr(failing, "start", start)
        with pytest.raises(NotBegunError, match="can't start new thread"):
            tried.plugin.reserve(["GPU-a-0"])
    assert own_threads(before) == []
    assert tried.plugin.reserve(["GPU-a-0"]).envs["NVIDIA_VGPU_IDS"] == "GPU-a-0"


FIRST_FINGERPRINT = """
import sys
from nomad_nvidia_vgpu.config.decode import decode
from nomad_nvidia_vgpu.device.plugin import HangUp, Plugin
from nomad_nvidia_vgpu.gpu.source import source_of
plugin = Plugin(source_of, decode({"vgpus": 2, "simulate": ["t4"]}))
next(plugin.fingerprint(HangUp()))
print(*sys.modules)
"""


def test_the_first_fingerprint_imports_only_what_it_needs() -> None:
    """A node pays for neither metrics, nor MPS, nor CDI, nor NVML where it has no use for them."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_FINGERPRINT], capture_output=True, text=True, check=True
    )
    late: tuple[str, ...] = (
        "cdi.delivery",
        "gpu.nvml.source",
        "metrics.families",
        "sharing.mps.enforcer",
    )
    late = (*late, "device.upkeep", "tasks.attribution", "tasks.guard", "tasks.sick_gpu")
    unwanted = {"prometheus_client", "http.server", "pathlib", "pynvml", "yaml"}
    unwanted |= {f"nomad_nvidia_vgpu.{module}" for module in late}
    assert all(importlib.util.find_spec(module) for module in unwanted)
    assert not unwanted & set(done.stdout.split())
