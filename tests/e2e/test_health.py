# SPDX-License-Identifier: MPL-2.0
"""GPUs that fail and come back, over the fake driver: what Nomad shows, places and leaves alone."""

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from libnvidia_ml.driver import FakeDriver

from e2e import binaries
from e2e.agent import Agent
from e2e.api import DeviceGroup
from e2e.conftest import StartAgent, Stayer, plugin_block, running, stay
from e2e.jobs import device, printing_job, staying_job
from e2e.waiting import wait_until

pytestmark = pytest.mark.nomad

VGPUS = 2
XID = 0x8
VERSION_MISMATCH = 18
HOLD = "hang.nvmlDeviceGetName"
STARTED = "client.device_mgr: starting plugin"
LEFT = "plugin exited unexpectedly"
NOMADS_STREAMS = ("fingerprints", "stats")
"""Nomad says once for each of them that a plugin has left."""

_log = logging.getLogger(__name__)


def _machine(nvml: Path, workspace: Path, gpus: int) -> FakeDriver:
    """A machine with so many H100."""
    driver = FakeDriver(nvml, workspace, "h100x8")
    for index in range(gpus, 8):
        driver.remove_section(f"gpu {index}")
    return driver


@pytest.fixture
def one_gpu(nvml: Path, tmp_path: Path) -> FakeDriver:
    """A machine with one H100, and a library of its own."""
    own = tmp_path / "driver"
    shutil.copytree(nvml, own)
    return _machine(own, tmp_path, 1)


def _config(health: str, vgpus: int = VGPUS) -> str:
    return plugin_block(f'vgpus = {vgpus}\n fingerprint_period = "1s"\n health {{\n {health}\n }}')


def _h100(agent: Agent) -> DeviceGroup:
    (group,) = agent.api.wait_for_groups().values()
    return group


def _health(agent: Agent) -> dict[str, set[bool]]:
    """Each GPU, with what its vGPUs are."""
    group = _h100(agent)
    return {gpu: {ok for v, ok in group.healthy.items() if v.startswith(gpu)} for gpu in group.gpus}


def _wait_for_health(agent: Agent, **gpus: bool) -> None:
    wanted = {gpu: {healthy} for gpu, healthy in gpus.items()}
    wait_until(f"the node shows {gpus}", lambda: _health(agent) == wanted, seen=agent.log_tail)


def _uuid(driver: FakeDriver, index: int) -> str:
    uuid = driver.get(f"gpu {index}", "uuid")
    assert uuid is not None
    return uuid


# A job that waits for the only GPU


class Fault(NamedTuple):
    """One way to break GPU 0 and to fix it, and what the node says of it meanwhile."""

    recovery_period: str
    says: str
    sick: Callable[[FakeDriver], object]
    well: Callable[[FakeDriver], object]


def _report_and_hold(driver: FakeDriver) -> None:
    """An event, and no look that ends what it says before the test lets it."""
    driver.set("gpu 0", HOLD, 1)
    driver.push_event(0, XID, 79)


FAULTS = {
    "lost": Fault(
        "1s",
        "GPU is lost",
        lambda driver: driver.set("gpu 0", "lost", 1),
        lambda driver: driver.clear("gpu 0", "lost"),
    ),
    "recovery action": Fault(
        "1s",
        "the driver asks for a reset",
        lambda driver: driver.set("gpu 0", "recovery_action", 1),
        lambda driver: driver.set("gpu 0", "recovery_action", 0),
    ),
    "XID": Fault(
        "1s",
        "XID 79 (fell off the bus)",
        _report_and_hold,
        lambda driver: driver.clear("gpu 0", HOLD),
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_the_waiting_job_wakes(start_agent: StartAgent, one_gpu: FakeDriver, fault: Fault) -> None:
    """A job that waits for a sick GPU runs soon after the node shows its vGPUs healthy."""
    driver, gpu = one_gpu, _uuid(one_gpu, 0)
    config = _config(f'recovery_period = "{fault.recovery_period}"')
    agent = start_agent(config, environment=driver.environment())
    _wait_for_health(agent, **{gpu: True})
    wait_until("it listens to events", lambda: driver.listened_to() == {"0"})

    fault.sick(driver)
    _wait_for_health(agent, **{gpu: False})
    group = _h100(agent)
    assert group.attributes["instances"] == (VGPUS, "")
    assert group.attributes["healthy_instances"] == (0, "")
    wait_until(
        "it says why", lambda: all(fault.says in t for t in _h100(agent).descriptions.values())
    )
    job = agent.api.submit(staying_job("patient", device()))
    agent.api.wait_until_blocked(job)
    assert _health(agent) == {gpu: {False}}

    fault.well(driver)
    _wait_for_health(agent, **{gpu: True})
    healthy_at = time.monotonic()
    agent.api.wait_for(job, "running")
    _log.info("the job ran %.1f s after its GPU was healthy", time.monotonic() - healthy_at)


# One of two GPUs, with tasks on both


@pytest.fixture(scope="module")
def two_gpus(nvml: Path, tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    """A machine with two H100."""
    return _machine(nvml, tmp_path_factory.mktemp("gpus"), 2)


@pytest.fixture(scope="module")
def agent_on_two(two_gpus: FakeDriver, start_module_agent: StartAgent) -> Agent:
    """An agent there, with two vGPUs on each of them."""
    config = _config('recovery_period = "1s"\n fatal_xids = [94]')
    return start_module_agent(config, environment=two_gpus.environment())


@pytest.fixture
def tasks(agent_on_two: Agent, two_gpus: FakeDriver) -> Iterator[list[Stayer]]:
    """A task on each GPU, the sick one's first, and one free vGPU beside each."""
    agent = agent_on_two
    stayers = [stay(agent, f"stayer-{n}") for n in range(2 * VGPUS)]
    # Which vGPU a task gets is Nomad's choice: fill all of them, then free one of each GPU.
    of_gpu = {
        _uuid(two_gpus, i): [s for s in stayers if s.gpu == _uuid(two_gpus, i)] for i in (0, 1)
    }
    agent.api.stop(pair[1].job for pair in of_gpu.values())
    yield [pair[0] for pair in of_gpu.values()]
    two_gpus.set("gpu 0", "recovery_action", 0)
    agent.api.stop_all()
    _wait_for_health(agent, **dict.fromkeys(of_gpu, True))


def _break_the_first(agent: Agent, driver: FakeDriver) -> None:
    driver.set("gpu 0", "recovery_action", 1)
    _wait_for_health(agent, **{_uuid(driver, 0): False, _uuid(driver, 1): True})


def _mend_the_first(agent: Agent, driver: FakeDriver) -> None:
    driver.set("gpu 0", "recovery_action", 0)
    _wait_for_health(agent, **{_uuid(driver, 0): True, _uuid(driver, 1): True})


def test_running_tasks_keep_running(
    agent_on_two: Agent, two_gpus: FakeDriver, tasks: list[Stayer]
) -> None:
    """Tasks on both GPUs keep their processes while one GPU fails and comes back."""
    _break_the_first(agent_on_two, two_gpus)
    for task in tasks:
        task.assert_untouched()
    _mend_the_first(agent_on_two, two_gpus)
    for task in tasks:
        task.assert_untouched()


def test_new_tasks_land_on_the_healthy_gpu_only(
    agent_on_two: Agent, two_gpus: FakeDriver, tasks: list[Stayer]
) -> None:
    """New tasks get the healthy GPU while there is room, then wait, and get the other once it is back."""
    sick, well = tasks
    _break_the_first(agent_on_two, two_gpus)
    assert stay(agent_on_two, "during").gpu == well.gpu
    waiting = agent_on_two.api.submit(staying_job("after", device()))
    agent_on_two.api.wait_until_blocked(waiting)
    _mend_the_first(agent_on_two, two_gpus)
    assert running(agent_on_two, waiting).gpu == sick.gpu


def test_the_node_names_cause_and_remedy(
    agent_on_two: Agent, two_gpus: FakeDriver, tasks: list[Stayer]
) -> None:
    """The node says of the vGPUs of the sick GPU, and of no other, what is wrong and what to do."""
    sick, well = tasks
    _break_the_first(agent_on_two, two_gpus)
    group = _h100(agent_on_two)
    assert group.attributes["healthy_instances"] == (VGPUS, "")
    text = f"{sick.gpu}: the driver asks for a reset: drain the node and reset the GPU"
    expected = {sick.gpu: text, well.gpu: ""}
    assert group.descriptions == {
        f"{gpu}-{n}": text for gpu, text in expected.items() for n in range(VGPUS)
    }
    _mend_the_first(agent_on_two, two_gpus)
    assert set(_h100(agent_on_two).descriptions.values()) == {""}


def test_an_xid_of_the_operator_s_list_takes_the_gpu_away(
    agent_on_two: Agent, two_gpus: FakeDriver, tasks: list[Stayer]
) -> None:
    """`fatal_xids` in the agent's configuration reaches the plugin."""
    wait_until("it listens to events", lambda: two_gpus.listened_to() == {"0", "1"})
    two_gpus.push_event(0, XID, 94)
    wait_until(
        "the log tells of it",
        lambda: "XID 94 (fatal by health.fatal_xids)" in agent_on_two.log,
        seen=agent_on_two.log_tail,
    )


def test_gpus_and_top_say_what_the_plugin_holds_back(
    start_agent: StartAgent, one_gpu: FakeDriver
) -> None:
    """The driver has forgotten the fault, and the plugin that runs has not."""
    config = _config('recovery_period = "1h"\n fatal_xids = [94]')
    agent = start_agent(config, environment=one_gpu.environment())
    _wait_for_health(agent, **{_uuid(one_gpu, 0): True})
    wait_until("it listens to events", lambda: one_gpu.listened_to() == {"0"})
    one_gpu.push_event(0, XID, 94)
    _wait_for_health(agent, **{_uuid(one_gpu, 0): False})
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("NOMAD_")}
    for command in (["gpus", "--json"], ["top", "--once"]):
        done = subprocess.run(
            [binaries.plugin(), *command, *(f"--config={path}" for path in agent.configs)],
            env={**inherited, **one_gpu.environment()},
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 1, said
        assert "XID 94 (fatal by health.fatal_xids)" in said
        assert f"http://127.0.0.1:{agent.ports.http}" in said


# The `health` block


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param(
            "fatal_xids = [79]\n ignored_xids = [79]",
            "health.fatal_xids and health.ignored_xids both name XID 79: take it out of one",
            id="contradiction",
        ),
        pytest.param(
            'recovery_period = "soon"',
            "health.recovery_period must be a duration of at most 8760h",
            id="no duration",
        ),
    ],
)
def test_wrong_health_options_stop_the_agent(
    start_agent: StartAgent, options: str, sentence: str
) -> None:
    """The agent exits with an error whose text names the option and what to do."""
    agent = start_agent(_config(options), start=False)
    agent.launch()
    assert agent.wait_for_exit() != 0
    assert sentence in agent.log, agent.log_tail()
    assert "Traceback" not in agent.log
    wait_until("the plugin is gone", lambda: not agent.plugin_processes())


@pytest.mark.skipif(
    os.geteuid() != 0 or str(Path("/proc/self/ns/pid").readlink()) != "pid:[4026531836]",
    reason="only as root does Nomad make cgroups, and only the host's pids are those of the driver",
)
def test_a_task_on_a_lost_gpu_is_ended_when_asked_for(
    start_agent: StartAgent, one_gpu: FakeDriver
) -> None:
    """With `end_tasks = true` the task fails, so that Nomad can place it elsewhere."""
    agent = start_agent(_config("end_tasks = true"), environment=one_gpu.environment())
    task = stay(agent)
    one_gpu.set("gpu 0", "compute_processes", f"{task.process.pid}:100")

    def attributed() -> bool:
        groups = agent.api.device_stats(agent.api.node())
        stats = [s["Stats"]["Attributes"] for g in groups for s in g["InstanceStats"].values()]
        return any(
            figures.get("vGPU processes", {}).get("IntNumeratorVal") == 1 for figures in stats
        )

    wait_until("the task is seen on its GPU", attributed, seen=agent.log_tail)
    one_gpu.set("gpu 0", "lost", 1)
    agent.api.wait_for(task.job, "failed")
    wait_until("the log says so", lambda: f"ending pid {task.process.pid} of " in agent.log)


# A driver that is replaced


def test_a_replaced_library_restarts_the_plugin_once(
    start_agent: StartAgent, one_gpu: FakeDriver
) -> None:
    """The plugin leaves once for the new library: its successor stays, and the task runs on."""
    driver, gpu = one_gpu, _uuid(one_gpu, 0)
    agent = start_agent(_config('recovery_period = "1s"'), environment=driver.environment())
    task = stay(agent)
    before = agent.the_plugin()

    (library,) = driver.library.iterdir()
    upgrade = library.with_name("new")
    shutil.copy(library, upgrade)
    upgrade.rename(library)
    driver.set("driver", "init_error", VERSION_MISMATCH)
    driver.set("driver", "fault.nvmlDeviceGetCount_v2", VERSION_MISMATCH)
    wait_until("the plugin leaves", lambda: not before.is_running(), seen=agent.log_tail)
    after = agent.the_plugin()
    # Nothing is better for the new process yet, and it stays all the same.
    wait_until("it tries again", lambda: _opened(driver, after.pid) >= 3, seen=agent.log_tail)
    wait_until("Nomad knows that the GPU is gone", lambda: not agent.api.device_groups())
    driver.clear("driver", "init_error")
    driver.clear("driver", "fault.nvmlDeviceGetCount_v2")
    wait_until(
        "the GPU is back", lambda: agent.api.device_groups() and _health(agent) == {gpu: {True}}
    )

    job = agent.api.submit(printing_job("next", device()))
    agent.api.wait_for(job, "complete")
    task.assert_untouched()
    assert [p.pid for p in agent.plugin_processes()] == [after.pid]
    assert agent.log.count("the driver was replaced by another version") == 1
    assert agent.log.count(STARTED) == 2, agent.log_tail()
    assert agent.log.count(LEFT) <= len(NOMADS_STREAMS), agent.log_tail()


def _opened(driver: FakeDriver, pid: int) -> int:
    """How often that process has tried to open the driver."""
    return sum(c.pid == pid and c.function.startswith("nvmlInit") for c in driver.call_log())
