# SPDX-License-Identifier: MPL-2.0
"""Tasks on GPUs that are gone, and those that Nomad knows nothing of."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nomad_nvidia_vgpu.cli.diagnosis.check_tasks import attribution, held, withheld_for
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level
from nomad_nvidia_vgpu.cli.diagnosis.nomad_api import ApiGroup, NomadLook
from nomad_nvidia_vgpu.sharing.withheld import WITHHELD
from unit.cli.diagnosis.nodes import assert_one, driver, facts, levels, offered, written
from unit.example_gpus import gpu

THERE, GONE = "GPU-1", "GPU-9"
RUNS = NomadLook("", allocations={"a1": "running"}, all_allocations=True)


def with_task(tmp_path: Path, uuid: str, nomad: NomadLook = RUNS) -> Facts:
    """A node with one GPU and a task on a vGPU of `uuid`, in two processes."""
    known = facts(tmp_path)
    environment = (
        f"NVIDIA_VGPU_IDS={uuid}-0\0NOMAD_ALLOC_ID=a1\0NOMAD_TASK_NAME=t\0NOMAD_JOB_ID=j\0"
    )
    for pid in (41, 40):
        folder = known.node.proc / str(pid)
        folder.mkdir(parents=True)
        (folder / "environ").write_text(environment)
    return dataclasses.replace(known, driver=driver(gpu(uuid=THERE)), nomad=nomad)


def test_a_task_on_a_gpu_that_is_there_is_ok(tmp_path: Path) -> None:
    """Also where Nomad does not tell its allocations, or not all."""
    known = with_task(tmp_path, THERE)
    assert_one(held, known, Level.OK, "no task holds")
    for nomad in (NomadLook(""), NomadLook("", allocations={})):
        known = dataclasses.replace(known, nomad=nomad)
        assert_one(held, known, Level.OK, "no task holds")


def test_a_task_on_a_gpu_that_is_gone_is_to_be_stopped(tmp_path: Path) -> None:
    """Nothing else frees what Nomad counts for it."""
    said = "task t of allocation a1 (pid 40, job j) holds vGPUs of GPU-9"
    assert_one(held, with_task(tmp_path, GONE), Level.ERROR, said, "| nomad alloc stop a1")


def test_a_process_that_nomad_does_not_run_is_an_orphan(tmp_path: Path) -> None:
    """Its allocation has ended, or there is none."""
    ended = RUNS._replace(allocations={"a1": "complete"})
    assert_one(
        held, with_task(tmp_path, THERE, ended), Level.WARNING, "an orphan", "| see what pid 40 is"
    )


def test_vgpus_are_withheld_for_tasks_by_name(tmp_path: Path) -> None:
    """On the same GPU, orphans as such."""
    group = ApiGroup("letmutx", "gpu", "x", {f"{THERE}-1": str(WITHHELD)})
    nomad = RUNS._replace(groups=(group,), allocations={})
    assert withheld_for(with_task(tmp_path, THERE, nomad)) == {
        THERE: ["task t of allocation a1 (pid 40, job j), an orphan"]
    }


KILL = 'vgpus = 4\nmemory_guard {\n action = "kill"\n}'
NO_CGROUPS = 'plugin "raw_exec" {\n config {\n no_cgroups = true\n }\n}\n'


def test_what_ends_tasks_needs_their_cgroups(tmp_path: Path) -> None:
    """Under cgroup v2 Nomad makes them from 1.3.0 on, under v1 always; the remedy is one of Nomad."""
    old = offered(version="1.1.2")
    assert_one(attribution, facts(tmp_path, options=KILL, nomad=old), Level.OK, "proves whose")
    written(tmp_path / "sys/fs/cgroup/cgroup.controllers", "cpu memory")
    said = 'under cgroup v2, and nothing else proves whose a process is, so memory_guard { action = "kill" } ends none'
    assert_one(
        attribution, facts(tmp_path, options=KILL, nomad=old), Level.WARNING, "Nomad 1.1.2", said
    )
    new = offered(version="1.3.0")
    assert_one(attribution, facts(tmp_path, options=KILL, nomad=new), Level.OK, "proves whose")
    ends = "vgpus = 4\nhealth {\n end_tasks = true\n}"
    assert_one(
        attribution, facts(tmp_path, options=ends, nomad=old), Level.WARNING, "end_tasks = true"
    )
    assert_one(attribution, facts(tmp_path, nomad=old), Level.OK, "no option is set")


def test_raw_exec_may_be_told_to_make_no_cgroups(tmp_path: Path) -> None:
    """Before 1.7."""
    old, new = (offered(version=number) for number in ("1.6.3", "1.7.0"))
    known = facts(tmp_path, options=KILL, nomad=old, more=NO_CGROUPS)
    assert_one(attribution, known, Level.WARNING, "no_cgroups = true", "| take it out")
    known = facts(tmp_path, options=KILL, nomad=new, more=NO_CGROUPS)
    assert_one(attribution, known, Level.OK, "proves whose")


def test_an_unknown_version_says_nothing_of_attribution(tmp_path: Path) -> None:
    """Which is the finding of another check."""
    assert levels(attribution, facts(tmp_path, options=KILL)) == []
