# SPDX-License-Identifier: MPL-2.0
"""What the machine is, and what its driver answers to the plugin's questions."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pynvml

from gpu.lab import READY_S, Lab
from nomad_nvidia_vgpu.gpu.nvml.source import NvmlSource
from nomad_nvidia_vgpu.sharing.mps.control import find_program

_LOOKS = 20
_CGROUP_CALLS = ("nvmlDeviceSetMemoryLimits_v1", "nvmlDeviceGetMemoryLimits_v1")
_DRIVER_PARAMETERS = Path("/proc/driver/nvidia/params")


def command(lab: Lab, *words: str) -> str:
    """What a program of the driver says, all of it in the log; OSError, TimeoutExpired."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    lab.log(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return (done.stdout.strip() or done.stderr.strip()) + (
        f" (exit status {done.returncode})" if done.returncode else ""
    )


def machine(lab: Lab) -> None:
    """GPU, driver and tools."""
    with lab.part("What is the GPU?"):
        ready = lab.opens(lab.plain(), READY_S)
        lab.answer(
            "What is the GPU?",
            f"{ready['gpu']}, compute capability {ready['capability_major']}."
            f"{ready['capability_minor']}, {ready['sms']} SMs, {ready['total_mib']} MiB of which"
            f" {ready['free_mib']} free, CUDA {ready['cuda']}; opening took"
            f" {ready['init_s']:.2f} s (cuInit) and {ready['context_s']:.2f} s (context)",
        )
    with lab.part("What does nvidia-smi say?"):
        command(lab, "nvidia-smi", "-q")
        query = "driver_version,compute_mode,persistence_mode,mig.mode.current,clocks.max.sm"
        row = command(lab, "nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")
        lab.answer(f"nvidia-smi: {query.replace(',', ', ')}", row)
    with lab.part("What is the node?"):
        cgroup2 = Path("/sys/fs/cgroup/cgroup.controllers")
        lab.answer(
            "What is the node?",
            f"kernel {platform.release()}, Python {platform.python_version()},"
            f" {os.cpu_count()} CPUs, uid {os.getuid()}, cgroup"
            f" {'v2: ' + cgroup2.read_text().strip() if cgroup2.exists() else 'v1 or none'};"
            f" /tmp/nvidia-mps {'exists' if Path('/tmp/nvidia-mps').exists() else 'is not there'}",
        )
    with lab.part("Where is the MPS control tool?"):
        lab.answer("Where is the MPS control tool?", find_program())


def recovery_action(lab: Lab) -> None:
    """Question 8."""
    question = "Value of field 230 (recovery action) on this GPU, and its return code"
    with lab.part(question, g=8):
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(lab.setup.uuid)
        (value,) = pynvml.nvmlDeviceGetFieldValues(
            handle, [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION]
        )
        lab.answer(
            question,
            f"value {value.value.uiVal}, return code {value.nvmlReturn},"
            f" driver {pynvml.nvmlSystemGetDriverVersion()}",
            g=8,
        )


def cgroup_limits(lab: Lab) -> None:
    """Part of question 7: looked for, not used."""
    question = "Are the driver's cgroup memory limits there?"
    with lab.part(question, g=7):
        library = ctypes.CDLL("libnvidia-ml.so.1")
        has = [f"{n}: {'yes' if hasattr(library, n) else 'no'}" for n in _CGROUP_CALLS]
        parameters = "not readable"
        if _DRIVER_PARAMETERS.exists():
            lines = _DRIVER_PARAMETERS.read_text().splitlines()
            parameters = "; ".join(line for line in lines if "acct" in line.lower()) or "no entry"
        said = command(lab, "nvidia-smi", "memory-limits", "--help").splitlines()[0]
        lab.answer(
            question,
            f"{', '.join(has)}; module parameters: {parameters};"
            f" nvidia-smi memory-limits --help: {said[:120]}",
            g=7,
        )


def driver_calls(lab: Lab) -> None:
    """The open questions about NVML."""
    refused = _recorded(pynvml)
    source = NvmlSource()
    board = None
    with lab.part("How long does the first touch of the driver take?"):
        opened = _timed(source.open)
        boards = [source.find(index) for index in range(source.count())]
        board = next(uuid for uuid in boards if _is_ours(source, uuid, lab.setup.uuid))
        first = _timed(functools.partial(source.look, board))
        lab.answer(
            "How long does the first touch of the driver take?",
            f"{opened * 1000:.1f} ms to open it, {first * 1000:.1f} ms for a look"
            " (a program had opened the GPU seconds before)",
        )
    if board is None:
        return
    for name, call in (("look", source.look), ("sample", source.sample)):
        with lab.part(f"What does a {name} cost?"):
            times = sorted(_timed(functools.partial(call, board)) for _ in range(_LOOKS))
            lab.answer(
                f"What does a {name} of the GPU cost?",
                f"median {statistics.median(times) * 1000:.2f} ms, longest"
                f" {times[-1] * 1000:.2f} ms, of {_LOOKS}",
            )
    with lab.part("Which figures are missing?"):
        (gpu,) = (g for g in source.look(board).gpus if g.uuid == lab.setup.uuid)
        missing = [name for name, value in gpu._asdict().items() if value is None]
        sample = source.sample(board)[gpu.uuid]._asdict()
        missing += [f"{name} (stats)" for name, value in sample.items() if value is None]
        lab.answer("Which figures does the plugin not get?", ", ".join(missing) or "none")
        lab.answer(
            "Which getters are refused, and how?",
            "; ".join(f"{call}: {error}" for call, error in sorted(refused.items())) or "none",
        )


def _is_ours(source: NvmlSource, board: str, uuid: str) -> bool:
    return any(gpu.uuid == uuid for gpu in source.look(board).gpus)


def _timed(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def _recorded(nvml: ModuleType) -> dict[str, str]:
    """Makes each getter note how it was refused; the notes, by call."""
    refused: dict[str, str] = {}

    def noting(name: str, getter: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(getter)
        def call(*arguments: Any) -> Any:
            try:
                return getter(*arguments)
            except nvml.NVMLError as error:
                shown = ", ".join(str(a) for a in arguments[1:])
                refused[f"{name}({shown})"] = str(error)
                raise

        return call

    for name in dir(nvml):
        if name.startswith("nvmlDeviceGet"):
            setattr(nvml, name, noting(name, getattr(nvml, name)))
    return refused
