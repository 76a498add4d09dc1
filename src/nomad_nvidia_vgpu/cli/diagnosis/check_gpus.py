# SPDX-License-Identifier: MPL-2.0
"""The GPUs: whether each answers, is healthy, and how it is divided. Silent without a driver."""

from __future__ import annotations

from collections.abc import Iterator

from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Verdict, error_of, ok, warning, warning_of


def answers(facts: Facts) -> Iterator[Verdict]:
    """Whether there are GPUs, and each tells its UUID."""
    look = facts.driver
    if look.problem:
        return
    for problem in look.problems:
        yield error_of(problem)
    if look.physical:
        models = sorted({seen.gpu.model for seen in look.inventory.gpus})
        yield ok(f"{counted(len(look.physical), 'GPU')}: {', '.join(models) or 'in MIG mode'}")
    elif not look.problems:
        yield warning(
            "the driver lists no GPU on this node",
            "see lspci and dmesg if it has one, else take the plugin's block out",
        )


def health(facts: Facts) -> Iterator[Verdict]:
    """Whether the GPUs are healthy now; the plugin may know of faults that have passed since."""
    look = facts.driver
    if look.problem:
        return
    sick = [seen for seen in look.inventory.gpus if not seen.health.healthy]
    for seen in sick:
        yield error_of(seen.health.reason)
    if not sick and look.inventory.gpus:  # of no GPU nothing is in order
        yield ok(f"{counted(len(look.inventory.gpus), 'GPU')} or MIG devices in good health")


def queries(facts: Facts) -> Iterator[Verdict]:
    """Whether a GPU fails to answer what it should know (what it does not support is no fault)."""
    look = facts.driver
    if look.problem:
        return
    failing = False
    for gpu in look.physical:
        if gpu.failed or not gpu.sampled:
            failing = True
            asked = ", ".join(f"{failed.query} ({failed.error})" for failed in gpu.failed)
            yield warning(
                f"{gpu.uuid} fails to answer {asked or 'any query of its figures'}",
                "see dmesg; what is not known is left out of attributes and stats",
            )
    for seen in look.inventory.gpus:
        if seen.gpu.memory_mib is None:
            failing = True
            yield warning(
                f"{seen.gpu.uuid} does not tell its memory, so no task is told its share of it",
                "update the driver if it should",
            )
    if not failing and look.physical:
        yield ok("every query that this plugin makes is answered or plainly not supported")


def mig(facts: Facts) -> Iterator[Verdict]:
    """Whether GPUs in MIG mode are cut into devices, and no change of the mode is pending."""
    look = facts.driver
    if look.problem:
        return
    for gpu in look.physical:
        if gpu.mig and not gpu.parts:
            yield warning(
                f"{gpu.uuid} is in MIG mode without MIG devices, so it offers nothing",
                f"nvidia-smi mig -i {gpu.uuid} -cgi …,… -C, or -mig 0",
            )
        elif gpu.mig:
            yield ok(f"{gpu.uuid} is cut into {counted(len(gpu.parts), 'MIG device')}")
        if gpu.mig_pending not in (None, gpu.mig):
            wish = "on" if gpu.mig_pending else "off"
            yield warning(
                f"MIG mode of {gpu.uuid} is to be switched {wish}, and is not yet",
                "drain the node and reset the GPU (nvidia-smi --gpu-reset)",
            )
    if look.physical and not any(gpu.mig for gpu in look.physical):
        yield ok("no GPU is in MIG mode")


def division(facts: Facts) -> Iterator[Verdict]:
    """Whether every GPU can be divided as the config asks."""
    look = facts.driver
    if look.problem:
        return
    plan = facts.plan
    sick = {seen.gpu.uuid for seen in look.inventory.gpus if not seen.health.healthy}
    problems = {
        shared.health.reason: None
        for group in plan.groups
        for shared in group.gpus
        if not shared.health.healthy and shared.gpu.uuid not in sick
    }
    for problem in problems:
        yield error_of(problem)
    for sentence in plan.warnings:
        yield warning_of(sentence)
    vgpus = sum(shared.published for group in plan.groups for shared in group.gpus)
    if problems or plan.warnings or not vgpus:
        return
    yield ok(f"{counted(vgpus, 'vGPU')} in {counted(len(plan.groups), 'device group')}")


def counted(number: int, what: str) -> str:
    """`1 GPU`, `2 GPUs`."""
    return f"{number} {what}{'s' * (number != 1)}"
