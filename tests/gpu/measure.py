# SPDX-License-Identifier: MPL-2.0
"""All experiments on a real GPU, one after the other: `python -m gpu.measure --out DIRECTORY`.

Each is a process with a time limit; one that fails or hangs does not stop the rest, and what it
started is ended. No setting of the GPU is changed, unless --set-compute-mode gives leave for the
one experiment that needs EXCLUSIVE_PROCESS; the settings are compared in the end. Exit status 0:
all was answered as promised, or there is no GPU; 1: something was not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any, NamedTuple

import pynvml

from gpu import report
from gpu.clients import Client, Refused, Silent
from gpu.experiment import EXPERIMENTS
from gpu.lab import READY_S, Setup
from gpu.sweep import sweep

_DEADLINE_S = 480.0
_LEAST_S = 10.0
_MIG_PREFIX = "MIG-"


class Settings(NamedTuple):
    """What must be the same in the end; None where the GPU has no such thing."""

    compute_mode: int | None
    persistence_mode: int | None
    mig_mode: int | None


def main() -> int:
    """Runs what was asked for and writes the report; the exit status."""
    arguments = _parser().parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = Path(tempfile.mkdtemp(prefix="vgpu-", dir="/tmp"))
    work.chmod(0o755)  # tasks of other users go through it
    with (out / "raw.log").open("a") as raw:
        try:
            found = _find(work, raw)
            if isinstance(found, str):
                print(f"no GPU was measured: {found}")
                report.write_nothing(out, found)
                return 0
            return _measure(arguments, found, work, raw)
        finally:
            sweep(work, lambda text: print(text, file=raw, flush=True))
            shutil.rmtree(work, ignore_errors=True)


def _measure(arguments: argparse.Namespace, setup: Setup, work: Path, raw: IO[str]) -> int:
    out: Path = arguments.out
    setup = setup._replace(
        answers=str(work / "answers.jsonl"), may_set_compute_mode=arguments.set_compute_mode
    )
    (work / "setup.json").write_text(json.dumps(setup._asdict()))
    before = _settings(setup.uuid)
    end = time.monotonic() + arguments.seconds
    names = arguments.only or list(EXPERIMENTS)
    results: list[report.Result] = []
    for number, name in enumerate(names):
        left = end - time.monotonic()
        if left < _LEAST_S:
            results.append(report.Result(name, "not run: the time was over", 0.0, []))
            continue
        result = _one(name, work, f"e{number:02}", min(EXPERIMENTS[name].timeout_s, left), raw)
        print(f"{name}: {result.end} ({result.seconds:.0f} s)", flush=True)
        results.append(result)
        _keep_mps_logs(work / f"e{number:02}", out, name)
        shutil.rmtree(work / f"e{number:02}", ignore_errors=True)
    after = _settings(setup.uuid)
    if before != after and arguments.set_compute_mode:
        after = _restore(setup.uuid, before)
    changed = "" if before == after else f"{before} before, {after} after"
    return report.write(out, results, changed)


def _one(name: str, work: Path, folder: str, timeout_s: float, raw: IO[str]) -> report.Result:
    """Runs one experiment in a process of its own, and ends whatever is left of it."""
    directory = work / folder
    directory.mkdir()
    directory.chmod(0o755)
    answers = work / "answers.jsonl"
    answers.write_text("")
    print(f"\n==== {name}", file=raw, flush=True)
    began = time.monotonic()
    command = [sys.executable, "-m", "gpu.experiment", name, str(work / "setup.json")]
    process = subprocess.Popen(
        [*command, str(directory)],
        env={**os.environ, "NVIDIA_VGPU_LAB": str(directory)},
        stdin=subprocess.DEVNULL,
        stdout=raw,
        stderr=raw,
        start_new_session=True,
    )
    try:
        status = process.wait(timeout_s)
        how = "done" if status == 0 else f"failed with exit status {status}"
    except subprocess.TimeoutExpired:
        process.kill()
        how = f"not finished within {timeout_s:.3g} s"
    left = sweep(directory, lambda text: print(text, file=raw, flush=True))
    if left:
        how += f"; pids {left} do not end"
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
    lines = answers.read_text().splitlines()
    return report.Result(name, how, time.monotonic() - began, [json.loads(x) for x in lines])


def _find(work: Path, raw: IO[str]) -> Setup | str:
    """The GPU, or why there is none."""
    try:
        with Client(
            lambda text: print(text, file=raw, flush=True), str(work), {}, "info"
        ) as client:
            ready = client.until("ready", 2 * READY_S)
        pynvml.nvmlInit()
        uuids = [
            str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index)))
            for index in range(pynvml.nvmlDeviceGetCount())
        ]
    except (Refused, Silent, pynvml.NVMLError) as error:
        return str(error)
    physical = f"GPU-{ready['uuid']}"
    if physical not in uuids:
        return (
            f"CUDA opens {_MIG_PREFIX}{ready['uuid']}, and these experiments want a GPU that is"
            " not in MIG mode: leave it as it is, and take another"
        )
    others = tuple(uuid for uuid in uuids if uuid != physical)
    return Setup(physical, others, ready["total_mib"], "", may_set_compute_mode=False)


def _settings(uuid: str) -> Settings:
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)

    def value(name: str) -> Any:
        try:
            return getattr(pynvml, name)(handle)
        except pynvml.NVMLError:
            return None

    mig = value("nvmlDeviceGetMigMode")
    return Settings(
        value("nvmlDeviceGetComputeMode"), value("nvmlDeviceGetPersistenceMode"), mig and mig[0]
    )


def _restore(uuid: str, before: Settings) -> Settings:
    """Puts the compute mode back; only where we had leave to change it."""
    if before.compute_mode is not None:
        with contextlib.suppress(pynvml.NVMLError):
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            pynvml.nvmlDeviceSetComputeMode(handle, before.compute_mode)
    return _settings(uuid)


def _keep_mps_logs(directory: Path, out: Path, name: str) -> None:
    with (out / "mps.log").open("a") as kept:
        for log in sorted(directory.glob("**/log/*.log")):
            kept.write(f"==== {name}: {log.relative_to(directory)}\n")
            kept.write(log.read_text(errors="replace"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where report and logs go")
    parser.add_argument("--seconds", type=float, default=_DEADLINE_S, help="for all together")
    parser.add_argument("--only", nargs="+", choices=list(EXPERIMENTS), metavar="NAME")
    parser.add_argument(
        "--set-compute-mode",
        action="store_true",
        help="the GPU is yours: EXCLUSIVE_PROCESS may be set for one experiment, and is taken back",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
