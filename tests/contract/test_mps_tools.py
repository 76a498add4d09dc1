# SPDX-License-Identifier: MPL-2.0
"""The installed plugin with NVIDIA's own MPS control tools, over the fake driver and no GPU.

Their server cannot run here: a program that pauses, or that ends, stands in its place.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from libnvidia_ml.driver import FakeDriver
from mps_control.control import install
from mps_control.real import DYING, PAUSING, ended, put, put_server, real_tool
from mps_control.state import lock_holder
from mps_control.versions import VERSIONS, Version

from .conftest import PROGRAM, Start
from .fingerprints import Groups, first_in, healthy, reasons, until
from .hostile import as_root, done
from .mps_machine import DEFAULT, EXCLUSIVE, MpsMachine, eventually

PERCENTAGE = "get_default_active_thread_percentage"
MEMORY = "get_default_device_pinned_mem_limit 0"
REFUSED = "set_default_active_thread_percentage 999"
"""A command that changes nothing, and that only a test gives: it is found in the log."""
ONE_USER = {"multi_user": False}
"""Without multi-user mode the first task starts the server: the daemon is all there is."""

pytestmark = pytest.mark.may_skip("the real tool is not free, and not to be had everywhere")


class RealMps:
    """A node with a real control tool."""

    def __init__(self, machine: MpsMachine, version: Version, tool: Path) -> None:
        """`tool` is the program, with a server beside it."""
        self.machine = machine
        self.version = version
        self.tool = tool

    def environment(self, gpu: int = 0) -> dict[str, str]:
        """Gives what a person sets who wants to talk to a GPU's daemon."""
        return {"CUDA_MPS_PIPE_DIRECTORY": str(self.machine.pipe(gpu)), "PATH": os.defpath}

    def said(self, *lines: str) -> list[str]:
        """Gives the answer of GPU 0's daemon, which may be ours to wait for."""
        text = "".join(f"{line}\n" for line in lines)
        while True:
            done = subprocess.run(
                [self.tool],
                input=text,
                text=True,
                capture_output=True,
                env=self.environment(),
                timeout=60,
                check=False,
            )
            if done.stdout:
                return done.stdout.splitlines()

    def daemon(self, gpu: int = 0) -> int:
        """Gives the pid of a GPU's daemon."""
        pid = lock_holder(self.machine.pipe(gpu))
        assert pid
        return pid

    def limits(self) -> list[str]:
        """Gives what is in force for servers to come."""
        return self.said(PERCENTAGE, MEMORY)

    def renewed(self, before: int) -> bool:
        """Tells whether there is another daemon than before."""
        return lock_holder(self.machine.pipe()) not in (before, None)


@pytest.fixture(params=list(VERSIONS))
def real(
    request: pytest.FixtureRequest,
    node: FakeDriver,
    mps_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> Iterator[RealMps]:
    """Gives a node with one of the real tools; nothing runs after the test."""
    found = real_tool(request.param)
    if found is None:
        pytest.skip(f"no real MPS control tool of driver {request.param}: make mps-tool")
    record_property("mps_tool", found.name)
    tool = put(found, mps_root.parent / "bin", PAUSING)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    with ExitStack() as stack:
        machine = MpsMachine(node, install(mps_root.parent / "unused"), mps_root, stack)
        for gpu in (0, 1):
            stack.enter_context(ended(machine.pipe(gpu)))
        yield RealMps(machine, VERSIONS[request.param], tool)


@contextmanager
def prompt(environment: Mapping[str, str], tool: Path, log: Path) -> Iterator[None]:
    """Holds somebody's prompt open; tries again while the plugin itself is answered."""
    asked = f"Cmd:{REFUSED}"
    answered = False
    while not answered:
        with (
            suppress(BrokenPipeError),  # a tool that is turned away is gone at once
            subprocess.Popen([tool], stdin=subprocess.PIPE, env=environment, text=True) as opened,
        ):
            assert opened.stdin is not None
            print(REFUSED, file=opened.stdin, flush=True)
            eventually(lambda: asked in log.read_text() or opened.poll() is not None)
            answered = asked in log.read_text()
            if answered:
                yield


def test_a_daemon_comes_with_its_limits(real: RealMps, start: Start) -> None:
    """One for each GPU, read back from the tool itself."""
    machine = real.machine
    until(start(machine.node, **machine.config(**ONE_USER, max_vgpus_per_task=1)).fingerprints(), 2)
    assert real.daemon(0) != real.daemon(1)
    assert machine.modes() == [EXCLUSIVE, EXCLUSIVE]
    assert real.limits() == ["25.0", f"{machine.memory_mib() // 4 // 1024}G"]


@pytest.mark.parametrize("multi_user", [False, True])
def test_a_restart_of_the_plugin_ends_no_daemon(
    real: RealMps, start: Start, *, multi_user: bool
) -> None:
    """Shut down or killed; also where multi-user mode was asked for and the driver has none."""
    machine = real.machine
    config = machine.config(multi_user=multi_user, max_vgpus_per_task=1)
    ready = 0 if multi_user and real.version.multi_user else 2
    host = start(machine.node, **config)
    until(host.fingerprints(), ready)
    eventually(lambda: lock_holder(machine.pipe()) and lock_holder(machine.pipe(1)))
    eventually(lambda: real.limits()[0] == "25.0")
    before = real.daemon(0), real.daemon(1)
    for killed in (False, True):
        host.plugin.process.kill() if killed else host.end()
        host.plugin.process.wait()
        host = start(machine.node, **config)
        until(host.fingerprints(), ready)
        assert (real.daemon(0), real.daemon(1)) == before
        assert real.limits()[0] == "25.0"


def test_a_killed_daemon_is_followed_by_another(real: RealMps, start: Start) -> None:
    """With the same limits; the plugin finds out by the lock."""
    machine = real.machine
    until(start(machine.node, **machine.config(**ONE_USER, max_vgpus_per_task=1)).fingerprints(), 2)
    before, other = real.daemon(), real.daemon(1)
    os.kill(before, signal.SIGKILL)
    eventually(lambda: real.renewed(before))
    eventually(lambda: real.limits() == ["25.0", f"{machine.memory_mib() // 4 // 1024}G"])
    assert real.daemon(1) == other


def test_other_options_renew_an_idle_daemon(real: RealMps, start: Start) -> None:
    """A memory limit once set cannot be taken off."""
    machine = real.machine
    host = start(machine.node, **machine.config(**ONE_USER))
    until(host.fingerprints(), 2)
    before = real.daemon()
    host.end()
    until(start(machine.node, **machine.config(**ONE_USER, memory_limit=False)).fingerprints(), 2)
    assert real.renewed(before)
    assert real.limits() == ["100.0"]


def test_release_takes_all_of_it_off(real: RealMps, start: Start) -> None:
    """Daemons, directories and compute modes."""
    machine = real.machine
    host = start(machine.node, **machine.config(**ONE_USER))
    until(host.fingerprints(), 2)
    host.end()
    done = subprocess.run(
        [PROGRAM, "release", "--mps-root", machine.root],
        env={**os.environ, **machine.node.environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [lock_holder(machine.pipe(gpu)) for gpu in (0, 1)] == [None, None]
    assert not (machine.root / machine.uuid()).exists()
    assert machine.modes() == [DEFAULT, DEFAULT]


def test_two_callers_at_once(real: RealMps, start: Start) -> None:
    """A doctor, a list of GPUs and strangers beside the plugin: nobody takes the daemon for dead."""
    machine = real.machine
    host = start(machine.node, **machine.config(**ONE_USER, max_vgpus_per_task=1))
    until(host.fingerprints(), 2)
    before = real.daemon()
    environment = {**os.environ, **machine.node.environment()}
    given = ["--sharing", "mps", "--vgpus", "4", "--mps-root", str(machine.root), "--json"]

    def gpus(_: int) -> str:
        done = subprocess.run(
            [PROGRAM, "gpus", *given], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with ThreadPoolExecutor(4) as pool:
        strangers = [pool.submit(real.limits) for _ in range(8)]
        shown = list(pool.map(gpus, range(2)))
        assert all(stranger.result()[0] == "25.0" for stranger in strangers)
    assert all('"25.0"' in each for each in shown)
    assert real.daemon() == before
    until(host.fingerprints(), 2)


def test_an_idle_prompt_of_somebody_takes_nothing_away(real: RealMps, start: Start) -> None:
    """The daemon turns everybody else away for as long as it is open, and serves its tasks."""
    machine = real.machine
    host = start(machine.node, **machine.config(**ONE_USER))
    until(host.fingerprints(), 2)
    before = real.daemon()
    log = machine.root / machine.uuid() / "log" / "control.log"
    with prompt(real.environment(), real.tool, log):
        eventually(lambda: any("answers somebody else" in line for line in host.logged("warn")))
        until(host.fingerprints(), 2)
        assert host.reserve(machine.ids(0))
    eventually(lambda: real.limits()[0] == "100.0")
    assert real.daemon() == before


@as_root
def test_a_daemon_that_a_stranger_hangs_takes_only_its_gpu_away(
    real: RealMps, start: Start
) -> None:
    """Any user can fill the FIFO `log`: no second daemon comes until somebody ends the first."""
    machine = real.machine
    host = start(machine.node, **machine.config(**ONE_USER))
    stream = host.fingerprints()
    until(stream, 2)
    before = real.daemon()
    done(
        f"os.write(os.open({str(machine.pipe() / 'log')!r}, os.O_RDWR | os.O_NONBLOCK), b'x' * 65536)"
    )
    found = first_in(stream, lambda groups: not healthy(groups)[machine.uuid()])
    assert healthy(found)[machine.uuid(1)]
    assert any(f"end the daemon (pid {before})" in reason for reason in reasons(found))
    assert real.daemon() == before
    os.kill(before, signal.SIGKILL)
    until(stream, 2)
    assert real.renewed(before)


def problem(groups: Groups, text: str) -> bool:
    """Whether all GPUs are unhealthy for this reason."""
    found = reasons(groups)
    return len(found) == 2 and all(text in reason for reason in found)


@pytest.mark.parametrize(
    ("server", "text"), [(DYING, "exited with status"), (PAUSING, "is starting: wait a moment")]
)
def test_a_server_that_is_not_ready(real: RealMps, start: Start, server: str, text: str) -> None:
    """The GPU waits for it, with the file to look into; only multi-user mode starts one beforehand."""
    machine = real.machine
    put_server(real.tool.parent, server)
    host = start(machine.node, **machine.config())
    if not real.version.multi_user:
        until(host.fingerprints(), 2)
        eventually(lambda: any("no multi-user mode" in line for line in host.logged("warn")))
        return
    found = first_in(host.fingerprints(), lambda groups: problem(groups, text))
    assert server is PAUSING or all("control.log" in reason for reason in reasons(found))
    assert real.daemon()
