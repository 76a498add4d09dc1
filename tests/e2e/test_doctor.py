# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu doctor` beside real agents: silent where all is well, and the usual mistakes."""

import json
import os
import re
import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import this_run
from doctor_findings import own_findings
from libnvidia_ml.driver import FakeDriver

from e2e import binaries
from e2e.agent import SERVER_ALONE, Agent
from e2e.conftest import StartAgent, plugin_block, stay
from e2e.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.nomad

GPUS = 8
OF_THE_MACHINE = {"containers", "selinux", "mps"}
"""Subjects that depend on what else the machine has that runs the tests.

The check `version` depends on which Nomad runs them.
"""

UNCONFIGURED = "set vgpus or vgpu_memory in the config block"

ANOTHER = """#!{python}
# Stands for a plugin of somebody else, under a name of its own.
from nomad_nvidia_vgpu.rpc import base_service
base_service.PLUGIN_NAME = "another"
from nomad_nvidia_vgpu.__main__ import main
main()
"""


@pytest.fixture
def driver(nvml: Path, tmp_path: Path) -> FakeDriver:
    """Eight GPUs of one model, unlike those of agents that other tests run at the same time.

    A plugin withholds what tasks hold of its GPUs, wherever on the machine they run.
    """
    made = FakeDriver(nvml, tmp_path, "h100x8")
    for index in range(GPUS):
        made.set(f"gpu {index}", "uuid", f"GPU-{uuid.uuid4()}")
    return made


class Diagnosis:
    """What one run said."""

    def __init__(
        self, agent: Agent, driver: FakeDriver, *, environment: dict[str, str] | None = None
    ) -> None:
        """Runs it as a person on that node would, who finds that driver or has this environment."""
        given = driver.environment() if environment is None else environment
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("NOMAD_")}
        configs = [f"--agent-config={path}" for path in agent.configs]
        done = subprocess.run(
            [binaries.plugin(), "doctor", "--json", "--time-limit=60", *configs],
            env={**inherited, **given},  # the files say where the agent listens
            capture_output=True,
            text=True,
            timeout=PATIENCE_S * 2,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        self.status = done.returncode
        self.document: dict[str, Any] = json.loads(done.stdout)
        self.bad = {
            f"{finding['subject']}/{finding['check']}": f"{finding['sentence']}: {finding['remedy']}"
            for finding in own_findings(self.document)
            if finding["level"] != "ok"
            and finding["subject"] not in OF_THE_MACHINE
            and finding["check"] != "version"
        }


def test_a_healthy_node_is_ok_and_a_changed_config_is_noticed(
    start_agent: StartAgent, driver: FakeDriver
) -> None:
    """Nomad reads `vgpus` at its start alone, and shows the old number until it is restarted."""
    agent = start_agent(plugin_block("vgpus = 4"), environment=driver.environment())
    agent.api.wait_for_groups(1)
    wait_until(
        "all GPUs are offered",
        lambda: sum(len(g.healthy) for g in agent.api.device_groups().values()) == 32,
    )
    found = Diagnosis(agent, driver)
    assert found.bad == {}
    assert found.document["skipped"] == []
    said = {finding["check"]: finding["sentence"] for finding in found.document["findings"]}
    assert said["groups"] == "Nomad offers all 32 vGPUs of this node"
    assert agent.api.node()["ID"] in said["api"]
    plugin = agent.the_plugin().pid
    assert said["library"].startswith(f"the plugin that runs (pid {plugin}) has loaded /")
    assert f"(pid {agent.pid})" in said["agent-process"]

    agent.configs[0].write_text(plugin_block("vgpus = 8"))
    found = Diagnosis(agent, driver)
    assert found.status == 1
    assert set(found.bad) == {"nomad/groups"}
    assert "32 vGPUs" in found.bad["nomad/groups"]
    assert "would publish 64: restart the agent" in found.bad["nomad/groups"]


def test_what_the_plugin_has_loaded_is_compared_with_what_a_shell_finds(
    start_agent: StartAgent, driver: FakeDriver
) -> None:
    """Each may have a library of its own; the process tells, not the environment of who asks."""
    agent = start_agent(plugin_block("vgpus = 4"), environment=driver.environment())
    agent.api.wait_for_groups(1)
    found = Diagnosis(agent, driver, environment={})
    assert f"has loaded {driver.library}/libnvidia-ml.so.1, and" in found.bad["driver/library"]


def test_an_agent_that_is_no_client_is_an_error(driver: FakeDriver) -> None:
    """It starts with our block, says nothing, and has no node to be asked for."""
    root, config = this_run.new_folder("a"), plugin_block("vgpus = 4")
    with closing(Agent(binaries.nomad(), root, config, dev=False, roles=SERVER_ALONE)) as agent:
        agent.launch()
        wait_until("the agent answers", agent.api.answers, seen=agent.log_tail)
        found = Diagnosis(agent, driver)
    assert "this agent is no client by" in found.bad["nomad/agent-config"]
    assert "client { enabled = true }" in found.bad["nomad/agent-config"]
    assert "is of an agent that is no client" in found.bad["nomad/api"]


def test_a_second_plugin_on_the_same_gpus_is_an_error(
    start_agent: StartAgent, driver: FakeDriver
) -> None:
    """Whatever its name, its vendor and its ids: the UUIDs are the same."""
    second = 'plugin "another" {\n config {\n vgpus = 2\n vendor = "second"\n }\n}\n'
    agent = start_agent(
        plugin_block("vgpus = 4") + second, environment=driver.environment(), start=False
    )
    program = agent.plugin_dir / "another"
    program.write_text(ANOTHER.format(python=sys.executable))
    program.chmod(0o755)
    agent.start()
    wait_until(
        "both plugins' GPUs are offered",
        lambda: len(agent.api.node()["NodeResources"]["Devices"] or []) == 2,
        seen=agent.log_tail,
    )
    found = Diagnosis(agent, driver)
    assert found.status == 1
    twice = [finding for finding in found.document["findings"] if finding["check"] == "sold-twice"]
    assert len(twice) == GPUS
    for finding in twice:
        assert finding["level"] == "error"
        assert "letmutx/gpu/NVIDIA H100 80GB HBM3" in finding["sentence"]
        assert "second/gpu/NVIDIA H100 80GB HBM3" in finding["sentence"]
        assert "plugin_dir" in finding["remedy"]


def test_a_label_that_is_not_the_files_name_is_an_error(
    start_agent: StartAgent, driver: FakeDriver
) -> None:
    """Up to 1.9 Nomad starts it without options, from 1.10 on not at all: no GPU is offered."""
    agent = start_agent(plugin_block("vgpus = 4"), environment=driver.environment(), start=False)
    entry = agent.plugin_dir / binaries.PLUGIN_NAME
    entry.rename(entry.with_name("vgpu"))
    agent.start()
    assert agent.api.device_groups() == {}
    found = Diagnosis(agent, driver)
    assert found.status == 1
    assert set(found.bad) == {"nomad/plugin-files", "nomad/groups"}
    assert "no executable file nvidia-vgpu" in found.bad["nomad/plugin-files"]
    assert "does not offer letmutx/gpu/" in found.bad["nomad/groups"]

    agent.configs[0].write_text(plugin_block("vgpus = 4").replace("nvidia-vgpu", "vgpu"))
    found = Diagnosis(agent, driver)
    assert 'write "nvidia-vgpu"' in found.bad["nomad/agent-config"]


@pytest.mark.parametrize("last", ["ours", "the copy"])
def test_of_two_copies_nomad_runs_the_one_that_the_folder_lists_last(
    start_agent: StartAgent, driver: FakeDriver, last: str
) -> None:
    """Never both: up to 1.9 the copy without options, as often as ours; from 1.10 on ours."""
    agent = start_agent(plugin_block("vgpus = 4"), environment=driver.environment(), start=False)
    entry = agent.plugin_dir / binaries.PLUGIN_NAME
    copy = copied(entry, last=last == "the copy")
    agent.start()
    said = Diagnosis(agent, driver).bad["nomad/plugin-files"]
    assert f"{copy} is this plugin; of it and nvidia-vgpu Nomad runs one alone" in said
    if binaries.version_of(agent.binary) >= (1, 10):
        agent.api.wait_for_groups(1)
        return
    assert "multiple versions of plugin detected" in agent.log
    runs = copy if last == "the copy" else entry
    assert str(runs) in agent.the_plugin().cmdline()
    if runs == entry:
        agent.api.wait_for_groups(1)
    else:
        wait_until("it says that it has no options", lambda: UNCONFIGURED in agent.log)
        assert agent.api.device_groups() == {}


def copied(entry: Path, *, last: bool) -> Path:
    """A copy of the program, which the folder lists after the program itself, or before it."""
    for number in range(200):
        copy = entry.with_name(f"vgpu-{number}")
        copy.symlink_to(entry.readlink())
        if (os.listdir(entry.parent)[-1] == copy.name) is last:  # noqa: PTH208  the order counts
            return copy
        copy.unlink()
    pytest.fail(f"no name puts a file {'behind' if last else 'before'} {entry}")


def test_a_task_on_a_gpu_that_is_gone_is_named_with_what_stops_it(
    start_agent: StartAgent, driver: FakeDriver
) -> None:
    """Nomad shows it as running, on a GPU that nobody will find again."""
    agent = start_agent(plugin_block("vgpus = 4"), environment=driver.environment())
    agent.api.wait_for_groups(1)
    task = stay(agent)
    index = next(n for n in range(GPUS) if driver.get(f"gpu {n}", "uuid") == task.gpu)
    driver.set(f"gpu {index}", "uuid", f"GPU-{uuid.uuid4()}")  # another card is in its slot
    (allocation,) = agent.api.allocations("stayer")
    (said,) = of_tasks(Diagnosis(agent, driver), task.process.pid)
    assert f"holds vGPUs of {task.gpu}, which the driver does not list" in said["sentence"]
    assert said["remedy"] == f"nomad alloc stop {allocation['ID']}"
    task.assert_untouched()
    agent.api.stop_all()


def test_a_process_that_outlived_its_allocation_is_an_orphan(
    start_agent: StartAgent, driver: FakeDriver
) -> None:
    """Its vGPU stays withheld until somebody ends it, so it is named with its pid."""
    agent = start_agent(plugin_block("vgpus = 4"), environment=driver.environment())
    agent.api.wait_for_groups(1)
    held = f"{driver.get('gpu 0', 'uuid')}-0"
    left = {"NVIDIA_VGPU_IDS": held, "NOMAD_ALLOC_ID": str(uuid.uuid4()), "NOMAD_TASK_NAME": "old"}
    with subprocess.Popen(["sleep", "3600"], env={**this_run.MARK, **left}) as orphan:
        try:
            (said,) = of_tasks(Diagnosis(agent, driver), orphan.pid)
        finally:
            orphan.kill()
    assert "Nomad does not run it: an orphan" in said["sentence"]


@pytest.mark.parametrize("nomad", [binaries.OLD], indirect=True, scope="session")
def test_the_plugin_that_nomad_has_built_in_is_an_error_until_it_is_turned_off(
    start_agent: StartAgent, driver: FakeDriver
) -> None:
    """Up to 1.1 HashiCorp's plugin is a part of Nomad, and offers the same GPUs once more."""
    block = plugin_block("vgpus = 4")
    agent = start_agent(block, environment=driver.environment())
    agent.api.wait_for_groups(1)
    assert any("built in" in said for said in sentences(Diagnosis(agent, driver)))
    off = 'plugin "nvidia-gpu" {\n config {\n enabled = false\n }\n}\n'
    agent.configs[0].write_text(block + off)
    assert not any("built in" in said for said in sentences(Diagnosis(agent, driver)))


def of_tasks(found: Diagnosis, pid: int) -> list[dict[str, str]]:
    """What is said of the task of this process; it looks at those of other tests too."""
    said = (f for f in found.document["findings"] if f["check"] == "tasks")
    return [f for f in said if f"pid {pid}" in f["sentence"]]


def sentences(found: Diagnosis) -> list[str]:
    """All that a diagnosis complains of."""
    return [f["sentence"] for f in found.document["findings"] if f["level"] != "ok"]


def test_without_an_agent_that_is_the_error(start_agent: StartAgent, driver: FakeDriver) -> None:
    """And what only an agent knows is not judged."""
    agent = start_agent(plugin_block("vgpus = 4"), environment=driver.environment(), start=False)
    found = Diagnosis(agent, driver)
    assert found.status == 1
    assert "no Nomad agent listens" in found.bad["nomad/api"]
    assert {"nomad/groups", "nomad/sold-twice"} <= set(found.document["skipped"])


def test_what_nomad_refuses_is_quoted(nomad: Path, tmp_path: Path) -> None:
    """A name that only Nomad knows to be wrong: `install` ends with 1, and `doctor` has an error."""
    binaries.needs(nomad, 1, 3)
    plugins, configs, programs = (tmp_path / name for name in ("plugins", "nomad.d", "bin"))
    for folder in (plugins, configs, programs):
        folder.mkdir()
    (programs / "nomad").symlink_to(nomad)
    (configs / "nomad.hcl").write_text(
        f'data_dir = "{tmp_path}"\nplugin_dir = "{plugins}"\nclient {{\n enabled = true\n}}\nclinet {{}}\n'
    )
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    for arguments in (["install", "--vgpus=2", "--simulate=t4"], ["doctor"]):
        done = subprocess.run(
            [binaries.plugin(), *arguments, f"--agent-config={configs}"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        said = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == 1, said
        assert "unexpected keys clinet" in re.sub(r"[^a-z ]+ ", "", said), said
