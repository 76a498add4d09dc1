# SPDX-License-Identifier: MPL-2.0
"""Whether the limit of a share refuses what is beyond it, and what a share loses to CUDA."""

from __future__ import annotations

from gpu.clients import Event, Refused
from gpu.lab import READY_S, Lab
from nomad_nvidia_vgpu.rpc.client import Refused as PluginRefused
from nomad_nvidia_vgpu.sharing.mps.layout import MEMORY_ENV, PERCENTAGE_ENV

_OUT_OF_MEMORY = 2
_VGPUS = 4
_ALLOCATE_S = 60.0
_CONTEXT_MIB = 2048
"""More than CUDA itself takes of a share."""
_SMALL_LIMITS_MIB = (64, 128, 192, 256, 384, 512, 768, 1024, 2048)


def shares(lab: Lab) -> None:
    """K = 1 and k = 3 of 4, and what holds of it when a task does not follow its environment."""
    with lab.part("Without MPS"):
        got = lab.run(lab.plain(), "allocate", within_s=_ALLOCATE_S)
        lab.answer("How much does a process get without MPS?", _story(got))
    with lab.part("The plugin with 4 vGPUs"):
        plugin = lab.plugin(_VGPUS, lab.root())
        group = plugin.until_healthy()
        shown = {name: attribute.value for name, attribute in group.attributes.items()}
        lab.answer(
            "What does the plugin publish in this compute mode?",
            f"memory_isolation {shown['memory_isolation']}, vgpu_memory"
            f" {shown.get('vgpu_memory')} MiB of {shown.get('memory')}",
        )
        for granted in (1, 3):
            with lab.part(f"{granted} of {_VGPUS} vGPUs"):
                _share(lab, plugin.task(granted), granted)
        with lab.part("Two processes of one task"):
            task = plugin.task(1)
            holder = lab.client(task, "allocate", "--hold")
            first = holder.result(_ALLOCATE_S)
            second = lab.run(task, "allocate", within_s=_ALLOCATE_S)
            holder.kill()
            lab.answer(
                "Two processes of one task with 1 of 4 vGPUs: what does each get?",
                f"first {first['got_mib']} MiB, second {second['got_mib']} MiB",
            )
        with lab.part("A task that drops its limits"):
            got = lab.run(_dropped(plugin.task(1)), "allocate", within_s=_ALLOCATE_S)
            lab.answer("A task with 1 of 4 vGPUs that drops its limits gets", _story(got))
        plugin.stop()
    _at_most_one(lab)


def _at_most_one(lab: Lab) -> None:
    question = "max_vgpus_per_task = 1: a task that drops its limits stays within one share"
    with lab.part(question):
        plugin = lab.plugin(_VGPUS, lab.root(), max_vgpus_per_task=1)
        limited = plugin.task(1)
        got = lab.run(_dropped(limited), "allocate", within_s=_ALLOCATE_S)
        share_mib = _limit_mib(limited)
        lab.answer(
            question, f"{_story(got)}, share {share_mib} MiB", promised=_within(got, share_mib)
        )
        raised = {**limited, MEMORY_ENV: f"0={4 * share_mib}M", PERCENTAGE_ENV: "100"}
        got = lab.run(raised, "allocate", within_s=_ALLOCATE_S)
        lab.answer(
            "max_vgpus_per_task = 1: a task that raises its limits stays within one share",
            f"{_story(got)}, share {share_mib} MiB",
            promised=_within(got, share_mib),
        )
        refusal = ""
        try:
            plugin.task(2)
        except PluginRefused as error:
            refusal = error.text
        lab.answer(
            "max_vgpus_per_task = 1: Reserve refuses 2, with the option's name",
            refusal or "it does not",
            promised="max_vgpus_per_task" in refusal,
        )
        plugin.stop()


def _share(lab: Lab, environment: dict[str, str], granted: int) -> None:
    share_mib = _limit_mib(environment)
    got = lab.run(environment, "allocate", within_s=_ALLOCATE_S)
    lab.answer(
        f"{granted} of {_VGPUS} vGPUs: the allocation beyond {share_mib} MiB is refused",
        _story(got),
        promised=_within(got, share_mib) and got["got_mib"] >= share_mib - _CONTEXT_MIB,
    )


def _within(got: Event, share_mib: int) -> bool:
    stopped_by = got["stopped_by"] or {}
    return bool(got["got_mib"] <= share_mib and stopped_by.get("error") == _OUT_OF_MEMORY)


def _story(got: Event) -> str:
    """How an allocation went."""
    stopped_by = got["stopped_by"]
    end = f"then error {stopped_by['error']} {stopped_by['name']}" if stopped_by else "no end"
    return (
        f"got {got['got_mib']} MiB, {end}; cuMemGetInfo: free {got['free_mib']}, total"
        f" {got['total_mib']} MiB"
    )


def _limit_mib(environment: dict[str, str]) -> int:
    return int(environment[MEMORY_ENV].partition("=")[2].removesuffix("M"))


def _dropped(environment: dict[str, str]) -> dict[str, str]:
    return {n: v for n, v in environment.items() if n not in (MEMORY_ENV, PERCENTAGE_ENV)}


def smallest(lab: Lab) -> None:
    """Question 9."""
    question = "Overhead of a context under a limit, and the smallest limit that works"
    rows = []
    with lab.part(question, g=9):
        daemon = lab.daemon()
        for limit_mib in _SMALL_LIMITS_MIB:
            environment = daemon.client(**{MEMORY_ENV: f"0={limit_mib}M"})
            try:
                got = lab.run(environment, "allocate", "--step-mib", 64, within_s=READY_S)
                seen = f"{got['got_mib']}"
                overhead = f"{limit_mib - got['got_mib']}"
            except Refused as error:
                seen, overhead = str(error), ""
            try:
                work = ("saturate", "--seconds", 0.3)
                runs = lab.run(environment, *work, within_s=READY_S)["launches"] > 0
                kernel = "runs" if runs else "does not run"
            except Refused as error:
                kernel = str(error)
            rows.append((limit_mib, seen, overhead, kernel))
        lab.table(
            "Question 9: small limits",
            ("limit, MiB", "a process gets, MiB", "overhead, MiB", "a kernel with 256 KiB"),
            rows,
        )
        working = [limit for limit, _, overhead, kernel in rows if overhead and kernel == "runs"]
        overheads = sorted({int(overhead) for _, _, overhead, _ in rows if overhead})
        lab.answer(
            question,
            f"overhead {', '.join(map(str, overheads)) or 'unknown'} MiB; smallest limit tried that"
            f" works: {min(working, default='none')} MiB",
            g=9,
        )
