# SPDX-License-Identifier: MPL-2.0
"""A node at one moment as a table and as a document."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console, RenderableType

from nomad_nvidia_vgpu.cli.tables.top import (
    guard_document,
    guard_table,
    node_document,
    node_table,
    stray_table,
)
from nomad_nvidia_vgpu.config.blocks import MemoryGuardConfig
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.gpu.model import SeenGpu
from nomad_nvidia_vgpu.sharing.plan import make_plan
from nomad_nvidia_vgpu.state.usage import (
    GpuUse,
    MpsServer,
    Share,
    StrayProcess,
    Task,
    TaskProcess,
    Usage,
    VgpuUse,
    parts_of,
)
from nomad_nvidia_vgpu.tasks.foresight import Foresight
from nomad_nvidia_vgpu.tasks.observer import Observation
from unit.example_gpus import FULL_SAMPLE, LOST, NOON, gpu, inventory

UUID = "GPU-27742447-59ad"
TASK = Task("/a", certain=True, allocation="8c3a9f70-25a5", name="infer", group="serve", job="llm")


def share(*numbers: int, used: int | None = 1024, budget: int = 2048, task: Task = TASK) -> Share:
    """Gives what a task with one process holds of the GPU."""
    ids = tuple(f"{UUID}-{number}" for number in numbers)
    return Share(task, UUID, ids, (TaskProcess(7, 1, used, "compute"),), used, budget)


def observed(
    *shares: Share,
    seen: SeenGpu | None = None,
    strays: tuple[StrayProcess, ...] = (),
    disputed: tuple[int, ...] = (),
    servers: tuple[MpsServer, ...] = (),
) -> Observation:
    """Gives a node with one GPU in eight vGPUs."""
    vgpus = {f"{UUID}-{n}": VgpuUse(0, 2879, 0) for n in range(8) if n not in disputed}
    for share in shares:
        vgpus.update(parts_of(share, 2879))
    said = tuple(f"{UUID}-{number}" for number in disputed)
    use = GpuUse(UUID, 0.0, vgpus, shares, strays, said, servers)
    plan = make_plan(PluginConfig(vgpus=8), inventory(seen or gpu(UUID)))
    return Observation(NOON, plan, {UUID: FULL_SAMPLE}, Usage(NOON, {UUID: use}))


def text(shown: RenderableType) -> list[list[str]]:
    """The rows without their lines, each as its cells."""
    console = Console(width=200, file=io.StringIO(), color_system=None)
    with console.capture() as captured:
        console.print(shown)
    return [line.split() for line in captured.get().splitlines() if line.strip()]


def rows(seen: Observation) -> list[list[str]]:
    """The rows of the table below its head."""
    return text(node_table(seen, bars=False))[1:]


def test_a_gpu_shows_its_figures_and_a_task_its_share() -> None:
    """Memory in GiB, how busy, how warm, how much power; who holds which vGPUs."""
    assert rows(observed(share(0, 1, 2, 5))) == [
        [
            *("GPU-27742447", "NVIDIA", "L4", "0000:07:00.0"),
            *("1", "1.0", "/", "22.5", "41", "55", "30", "healthy"),
        ],
        ["0-2,5", "llm/serve/infer", "8c3a9f70", "1", "1.0", "/", "2.0"],
        ["3-4,6-7", "not", "in", "use"],
    ]


def test_a_gpu_is_numbered_as_the_driver_numbers_it() -> None:
    """In its order, whatever the bus ids say; a GPU without a number comes last."""
    numbered = {"GPU-aaaaaaaa": 1, "GPU-bbbbbbbb": None, "GPU-cccccccc": 0}
    gpus = [gpu(uuid, driver_index=index) for uuid, index in numbered.items()]
    plan = make_plan(PluginConfig(vgpus=1), inventory(*gpus))
    shown = rows(observed()._replace(plan=plan, samples={}, usage=Usage()))
    assert [" ".join(row).split(" NVIDIA")[0] for row in shown[::2]] == [
        *("0 GPU-cccccccc", "1 GPU-aaaaaaaa"),
        "GPU-bbbbbbbb",
    ]


def test_tasks_are_in_the_order_of_their_vgpus() -> None:
    """As on the GPU, whatever they are called."""
    other = TASK._replace(key="/b", name="z")
    shown = rows(observed(share(4), share(0, task=other)))
    assert [row[0] for row in shown] == ["GPU-27742447", "0", "4", "1-3,5-7"]


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (share(0, used=2049), "over budget"),
        (share(0)._replace(doubt="it was promised 1 MiB"), "it was promised 1 MiB"),
        (share(0, task=TASK._replace(certain=False)), "by its environment alone"),
    ],
)
def test_a_task_says_what_is_wrong_with_it(held: Share, said: str) -> None:
    """Above its budget, or not known for certain."""
    assert " ".join(rows(observed(held))[1]).endswith(said)


def test_names_of_tasks_are_shown_as_they_stand() -> None:
    """What looks like markup, or speaks to the terminal, is text like any other."""
    odd = TASK._replace(job="[red]", group="\x1b[31m", name="[/]\u202e")
    seen = observed(share(0, task=odd))
    assert rows(seen)[1][1] == r"[red]/\x1b[31m/[/]\u202e"
    forecasts = Foresight(MemoryGuardConfig()).forecasts(seen.usage)
    assert r"[red]/\x1b[31m/[/]\u202e" in text(guard_table(forecasts, "warn", bars=False))[-1]


def test_unknown_figures_are_dashes() -> None:
    """A figure that is not known is not zero, and a GPU whose users are not known says so."""
    seen = observed(share(0, used=None))
    assert rows(seen)[1][3:] == ["1", "-", "/", "2.0"]
    sample = FULL_SAMPLE.replaced(temperature_c=None, gpu_utilization_percent=None)
    seen = seen._replace(samples={UUID: sample}, usage=Usage())
    assert rows(seen)[0][4:] == ["-", "1.0", "/", "22.5", "-", "-", "30", "healthy"]
    assert rows(seen)[1] == ["0-7", *["the", "driver", "does", "not", "list", "its", "processes"]]


def test_an_unhealthy_gpu_says_why() -> None:
    """Cause and remedy, as in Nomad."""
    shown = rows(observed(seen=SeenGpu(gpu(UUID), LOST)))
    assert " ".join(shown[0]).endswith(LOST.reason)


def test_strays_and_disputes_are_shown() -> None:
    """What uses the GPU and belongs to nobody, and what two tasks claim."""
    strays = tuple(StrayProcess(pid, 100, "compute", "no cgroup") for pid in range(10, 18))
    seen = observed(strays=strays, disputed=(3, 4))
    shown = [" ".join(row) for row in rows(seen)]
    assert "3-4 claimed by two tasks at once in dispute" in shown
    assert shown[-1].startswith("- no task: pid 10, 11, 12, 13, 14, 15 and 2 more 8 0.8 / 22.5")
    listed = text(stray_table(seen, bars=False))
    assert listed[2] == ["GPU-27742447", "10", "100", "no", "cgroup"]


def test_an_mps_server_is_shown_as_what_it_is() -> None:
    """Its memory is no task's, and nobody's neither."""
    seen = observed(share(0), servers=(MpsServer(31, 512),))
    shown = [" ".join(row) for row in rows(seen)]
    assert shown[0].startswith("GPU-27742447 NVIDIA L4 0000:07:00.0 2 1.0 / 22.5")
    assert shown[-1] == "- MPS server: pid 31 1 0.5 / 22.5"
    (gpu,) = json.loads(json.dumps(node_document(seen)))["gpus"]
    assert gpu["usage"]["mps_servers"] == [{"pid": 31, "memory_mib": 512}]
    assert gpu["usage"]["unattributed"] == []


@pytest.mark.parametrize(
    ("used", "filled"), [(0, 0), (1, 1), (1024, 6), (2048, 12), (9999, 12), (None, None)]
)
def test_a_bar_is_as_full_as_the_budget(used: int | None, filled: int | None) -> None:
    """From nothing to all, never longer; and none where it is not known."""
    console = Console(width=200, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    with console.capture() as captured:
        console.print(node_table(observed(share(0, used=used)), bars=True))
    line = captured.get().splitlines()[2]
    parts = [part for part in line.split("\x1b[") if "━" in part]
    lengths = [part.count("━") for part in parts]
    assert sum(lengths) == (0 if filled is None else 12)
    assert lengths[:1] == ([] if filled is None else [filled or 12])


def test_machines_get_everything() -> None:
    """The document has what the table has, whole and in MiB, and can be written as JSON."""
    strays = (StrayProcess(10, None, "compute", "no cgroup"),)
    document = json.loads(json.dumps(node_document(observed(share(0, 1), strays=strays))))
    (gpu,) = document["gpus"]
    assert (gpu["uuid"], gpu["memory_used_mib"], gpu["vgpus"]) == (UUID, 1024, 8)
    (task,) = gpu["usage"]["tasks"]
    assert (task["job"], task["allocation"]) == ("llm", "8c3a9f70-25a5")
    assert task["vgpus"] == [f"{UUID}-0", f"{UUID}-1"]
    assert task["processes"] == [{"pid": 7, "memory_mib": 1024}]
    assert gpu["usage"]["vgpus"][f"{UUID}-1"] == {"used_mib": 512, "processes": 0}
    assert gpu["usage"]["unattributed"][0]["memory_mib"] is None
    assert document["taken_at"] == NOON.isoformat()
    unknown = observed()._replace(usage=Usage())
    assert json.loads(json.dumps(node_document(unknown)))["gpus"][0]["usage"] is None


def test_the_guards_view_is_a_table_and_a_document() -> None:
    """Each task with what it uses, its limit, and what would happen."""
    seen = observed(share(0, used=4096))
    forecasts = Foresight(MemoryGuardConfig("kill")).forecasts(seen.usage)
    title, _, row = [" ".join(line) for line in text(guard_table(forecasts, "kill", bars=False))]
    assert title == 'What the memory guard would do (action = "kill")'
    assert row.startswith("GPU-27742447 llm/serve/infer 4096 2048 2150 0 s 1946 MiB above")
    (document,) = guard_document(forecasts)
    assert document["would_end"] == [7]
    assert document["limit_mib"] == 2150
