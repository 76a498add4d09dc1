# SPDX-License-Identifier: MPL-2.0
"""The ways to share a GPU. A new way is one file here and one line in `config.options.SHARING`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Protocol

from nomad_nvidia_vgpu.config.options import SHARING, PluginConfig
from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.gpu.model import ComputeModes, Gpu
from nomad_nvidia_vgpu.sharing.enforcement import Enforcement
from nomad_nvidia_vgpu.sharing.grant import Delivery, Grant

ISOLATION = ("none", "guard", "cgroup", "mps", "mig", "whole")
"""What may hold a task to its share of the memory, weakest first."""


class Enforcer(Protocol):
    """The machinery behind a strategy: processes and settings outside of this program.

    Each call may take some seconds, never longer; calls for one GPU do not overlap. What runs
    survives this process, because tasks depend on it.
    """

    def keep(self, gpu: Gpu, vgpus: int, memory_percent: int = 100) -> Enforcement:
        """Brings into force what is not, and reads back what is.

        `memory_percent`: what a task may use of the memory, of its share.
        """

    def holds(self, uuid: str) -> bool:
        """Whether anything of an earlier config is left on a GPU; cheap."""

    def release(self, uuid: str) -> Problem:
        """Takes off what is left of an earlier config; why it cannot yet be, or "" when done."""

    def left_over(self) -> list[str]:
        """The UUIDs of the GPUs for which `holds` is true."""


class Strategy(Protocol):
    """How the tasks on one GPU are kept to their shares."""

    enforced: bool
    """Whether an `Enforcer` must be at work before a GPU can be shared."""
    one_gpu_per_group: bool
    """Whether a task can be given vGPUs of one GPU only, so that each GPU is its own group."""

    def problem(self, gpu: Gpu, vgpus: int) -> Problem:
        """Why `gpu` cannot be shared among `vgpus` in this way, and what to do; empty: it can."""

    def weakness(self, gpu: Gpu, vgpus: int) -> Problem:
        """What is odd about sharing `gpu` so, for the log; empty: nothing."""

    def expected(self, config: PluginConfig, gpu: Gpu) -> Enforcement:
        """What is in force when all works: what a plan assumes, and what simulated GPUs have."""

    def memory_isolation(self, gpu: Gpu, vgpus: int, enforcement: Enforcement) -> str:
        """One of `ISOLATION`: what holds while `enforcement` is as it is."""

    def deliver(self, config: PluginConfig, grant: Grant) -> Delivery:
        """What a task is given beyond the names of its GPU; RequestError if it may not have it."""

    def enforcer(self, config: PluginConfig, modes: ComputeModes) -> Enforcer | None:
        """The machinery for the GPUs of a node, not started; None if this needs none."""


def _made(path: str) -> Strategy:
    module, _, kind = path.rpartition(".")
    made: Strategy = getattr(import_module(f"nomad_nvidia_vgpu.sharing.{module}"), kind)()
    return made


STRATEGIES: Mapping[str, Strategy] = {name: _made(path) for name, path in SHARING.items()}


def enforcers_of(config: PluginConfig, modes: ComputeModes) -> dict[str, Enforcer]:
    """What must be kept in force on this node, or taken off, by the name of the strategy."""
    found = {name: strategy.enforcer(config, modes) for name, strategy in STRATEGIES.items()}
    return {name: enforcer for name, enforcer in found.items() if enforcer is not None}
