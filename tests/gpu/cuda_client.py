# SPDX-License-Identifier: MPL-2.0
"""A CUDA process for experiments: `python -m gpu.cuda_client COMMAND`.

What happens is printed as one JSON object per line, with `event` saying what; a call that the
driver refuses is `failed`, with its error number, and the exit status is 3.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import time
from typing import Any

from gpu.cuda_driver import (
    FMA_PER_ROUND,
    LEAST_ROUNDS,
    MIB,
    MOST_ROUNDS,
    NOWHERE,
    OUT_OF_MEMORY,
    SUM,
    THREADS,
    WORDS,
    CudaError,
    Gpu,
    say,
)

REFUSED_STATUS = 3

_WARM_UP_S = 0.3
"""An idle GPU runs at a fifth of its clock."""
_MID_KERNEL_LAUNCH_S = 0.02
_SET_DUMPABLE = 4
_CLOCK_TICK_S = 1e-6


class Work:
    """The saturating kernel, with as many rounds as take about the time wanted."""

    def __init__(self, gpu: Gpu, *, blocks: int, launch_s: float, rounds: int | None) -> None:
        """Checks what the kernel computes first. `rounds` None: as many as last `launch_s`."""
        self._gpu = gpu
        self.blocks = blocks
        self._out = gpu.allocate(WORDS * 4)
        self.run(LEAST_ROUNDS)
        self._check()
        self.rounds = self._calibrated(launch_s) if rounds is None else rounds

    def run(self, rounds: int | None = None) -> float:
        """One kernel from launch to end, in seconds."""
        began = time.monotonic()
        self.start(self.rounds if rounds is None else rounds)
        self._gpu.wait()
        return time.monotonic() - began

    def start(self, rounds: int) -> None:
        """Launches one kernel."""
        self._gpu.launch("saturate", self._out, self.blocks, rounds)

    def fma(self, launches: int) -> int:
        """The multiply-adds of that many kernels."""
        return launches * self.blocks * THREADS * self.rounds * FMA_PER_ROUND

    def _check(self) -> None:
        words = (ctypes.c_float * WORDS)()
        self._gpu.cuda.call("cuMemcpyDtoH_v2", words, self._out, WORDS * 4)
        written = words[: min(self.blocks * THREADS, WORDS)]
        wrong = [word for word in written if word != SUM]
        if wrong:
            raise CudaError("saturate", None, f"{len(wrong)} words are not {SUM}: {wrong[0]}")

    def _calibrated(self, launch_s: float) -> int:
        warm = time.monotonic() + _WARM_UP_S
        rounds = LEAST_ROUNDS
        while True:
            took = max(self.run(rounds), _CLOCK_TICK_S)
            if took < launch_s / 2:
                rounds = min(int(rounds * min(launch_s / took, 8)), MOST_ROUNDS)
            elif time.monotonic() >= warm:
                return max(1, min(int(rounds * launch_s / took), MOST_ROUNDS))


def allocate(arguments: argparse.Namespace) -> None:
    """Takes memory, in ever smaller steps, until the driver refuses or it has enough."""
    gpu = Gpu()
    got_mib, step_mib, refusal = 0, arguments.step_mib, None
    while step_mib and got_mib < arguments.most_mib:
        step_mib = min(step_mib, arguments.most_mib - got_mib)
        try:
            gpu.allocate(step_mib * MIB)
            got_mib += step_mib
        except CudaError as error:
            refusal = error.facts
            if refusal["error"] != OUT_OF_MEMORY:
                break
            step_mib //= 2
    free_mib, total_mib = gpu.memory_mib()
    say("result", got_mib=got_mib, stopped_by=refusal, free_mib=free_mib, total_mib=total_mib)
    if arguments.hold:
        sys.stdin.read()


def saturate(arguments: argparse.Namespace) -> None:
    """Runs the kernel again and again for a time, and says how often it ran."""
    gpu = Gpu()
    work = Work(gpu, blocks=arguments.blocks, launch_s=arguments.launch_s, rounds=arguments.rounds)
    if arguments.wait:
        say("waiting", rounds=work.rounds)
        sys.stdin.readline()
    launches, longest_s = 0, 0.0
    began = time.monotonic()
    said, end = began, began + arguments.seconds
    while (now := time.monotonic()) < end:
        if now - said >= arguments.every_s:
            say("progress", launches=launches, longest_s=round(longest_s, 4))
            said, longest_s = now, 0.0
        longest_s = max(longest_s, work.run())
        launches += 1
    seconds = time.monotonic() - began
    say(
        "result",
        launches=launches,
        rounds=work.rounds,
        seconds=round(seconds, 4),
        launches_per_s=round(launches / seconds, 3),
        tera_fma_per_s=round(work.fma(launches) / seconds / 1e12, 4),
    )


def hold(arguments: argparse.Namespace) -> None:
    """Takes memory and waits; each line of input but `end` has it run a small kernel."""
    gpu = Gpu()
    gpu.allocate(max(1, arguments.mib) * MIB)
    say("holding", mib=arguments.mib)
    work = None
    for line in sys.stdin:
        if line.strip() == "end":
            break
        work = work or Work(gpu, blocks=1, launch_s=0.001, rounds=LEAST_ROUNDS)
        say("ran", seconds=round(work.run(), 4))
    gpu.close()
    say("ended")


def mid_kernel(arguments: argparse.Namespace) -> None:
    """Launches one kernel that fills the GPU for some seconds, and waits for its end."""
    gpu = Gpu()
    work = Work(gpu, blocks=gpu.sms * 8, launch_s=_MID_KERNEL_LAUNCH_S, rounds=None)
    rounds = min(int(work.rounds * arguments.seconds / _MID_KERNEL_LAUNCH_S), MOST_ROUNDS)
    began = time.monotonic()
    work.start(rounds)
    say("launched", expected_s=arguments.seconds)
    gpu.wait()
    say("result", seconds=round(time.monotonic() - began, 4))


def trespass(arguments: argparse.Namespace) -> None:
    """Has the GPU write to an address that is nobody's."""
    gpu = Gpu()
    gpu.launch("trespass", NOWHERE, 1, 1)
    gpu.wait()
    say("result", refused=False)


def info(arguments: argparse.Namespace) -> None:
    """Opens the GPU and says what it is."""
    Gpu().close()


def main() -> int:
    """Runs one command; the exit status."""
    arguments = _parser().parse_args()
    if arguments.uid is not None:
        _become(arguments.uid)
    try:
        arguments.run(arguments)
    except CudaError as error:
        say("failed", **error.facts)
        return REFUSED_STATUS
    return 0


def _become(uid: int) -> None:
    """Drops root for good, and stays as open to inspection as a process started by that user."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    ctypes.CDLL(None).prctl(_SET_DUMPABLE, 1, 0, 0, 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uid", type=int, help="the user to run as; needs root")
    commands = parser.add_subparsers(required=True)

    def command(name: str, run: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=run.__doc__)
        added.set_defaults(run=run)
        return added

    command("info", info)
    command("trespass", trespass)
    verb = command("allocate", allocate)
    verb.add_argument("--step-mib", type=int, default=1024, help="the first, largest step")
    verb.add_argument("--most-mib", type=int, default=2**30, help="how much is enough")
    verb.add_argument("--hold", action="store_true", help="keep it until standard input ends")
    verb = command("saturate", saturate)
    verb.add_argument("--seconds", type=float, default=2.0)
    verb.add_argument(
        "--blocks", type=int, default=16384, help="16384 fill any GPU many times over"
    )
    verb.add_argument("--launch-s", type=float, default=0.005, help="how long one kernel takes")
    verb.add_argument("--rounds", type=int, help="the kernel's rounds, instead of --launch-s")
    verb.add_argument("--every-s", type=float, default=0.25, help="how often progress is said")
    verb.add_argument("--wait", action="store_true", help="begin at the first line of input")
    verb = command("hold", hold)
    verb.add_argument("--mib", type=int, default=64)
    verb = command("mid-kernel", mid_kernel)
    verb.add_argument("--seconds", type=float, default=4.0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
