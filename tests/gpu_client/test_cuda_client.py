# SPDX-License-Identifier: MPL-2.0
"""The client calls the driver as its documentation wants, and reports what it meets."""

from __future__ import annotations

import json
import subprocess

import pytest

from .conftest import Cuda, Run

CONTEXT_MIB = 300
"""What a context takes in the pretended library."""


def events(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    """What a client said."""
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_it_opens_the_gpu_as_the_runtime_does(run: Run, cuda: Cuda) -> None:
    """First the driver, then the device, then its primary context, made current."""
    (ready,) = events(run("info"))
    opening = ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent"]
    assert cuda.calls()[:4] == opening
    assert ready["uuid"] == "abababab-abab-abab-abab-abababababab"
    assert (ready["sms"], ready["capability_major"], ready["total_mib"]) == (100, 9, 8192)


def test_allocate_finds_the_limit_to_the_mebibyte(run: Run) -> None:
    """It takes all there is, and names the error that ended it."""
    result = events(run("allocate", CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="0=2049M"))[-1]
    assert result["got_mib"] == 2049 - CONTEXT_MIB
    assert result["stopped_by"] == {
        "call": "cuMemAlloc_v2",
        "error": 2,
        "name": "CUDA_ERROR_OUT_OF_MEMORY",
    }


def test_allocate_stops_where_it_was_told(run: Run) -> None:
    """More than enough says that nothing limits it."""
    result = events(run("allocate", "--most-mib", "1500"))[-1]
    assert (result["got_mib"], result["stopped_by"]) == (1500, None)


def test_saturate_counts_the_work_it_did(run: Run) -> None:
    """The kernels that ran are those that it reports, beside the first, which it checks."""
    result = events(run("saturate", "--seconds", "0.2", "--blocks", "64", "--rounds", "1000"))[-1]
    launches, seconds = result["launches"], result["seconds"]
    assert isinstance(launches, int)
    assert isinstance(seconds, float)
    assert launches > 0
    fma = launches * 64 * 256 * 1000 * 32
    assert result["tera_fma_per_s"] == pytest.approx(fma / seconds / 1e12, rel=1e-2, abs=1e-4)


def test_saturate_begins_when_it_is_told(run: Run) -> None:
    """Tasks that are compared begin together, after their calibration."""
    said = events(run("saturate", "--wait", "--seconds", "0.1", given="go\n"))
    names = [event["event"] for event in said if event["event"] != "progress"]
    assert names == ["ready", "waiting", "result"]
    assert said[-1]["rounds"] == next(e["rounds"] for e in said if e["event"] == "waiting")


def test_a_kernel_that_computes_nonsense_is_no_result(run: Run) -> None:
    """A figure of work that was not done would be worse than none."""
    done = run("saturate", "--seconds", "0.1", FAKE_CUDA_SUM="15")
    assert done.returncode == 3
    assert "are not 16.0: 15.0" in str(events(done)[-1]["name"])


def test_mid_kernel_says_when_the_kernel_runs(run: Run) -> None:
    """Whoever kills it knows that it is in the kernel."""
    said = events(run("mid-kernel", "--seconds", "0.3"))
    assert [event["event"] for event in said] == ["ready", "launched", "result"]


def test_hold_runs_a_kernel_for_each_line(run: Run) -> None:
    """It shows that its context lives; `end` ends it."""
    said = events(run("hold", "--mib", "100", given="go\ngo\nend\n"))
    assert [event["event"] for event in said] == ["ready", "holding", "ran", "ran", "ended"]


def test_a_fault_is_reported_with_its_number(run: Run) -> None:
    """The kernel that trespasses, and the call that learns of it."""
    done = run("trespass")
    failed = events(done)[-1]
    assert (done.returncode, failed["error"]) == (3, 700)
    assert failed["call"] == "cuCtxSynchronize"


@pytest.mark.parametrize("call", ["cuInit", "cuDevicePrimaryCtxRetain", "cuMemAlloc_v2"])
def test_a_refused_call_is_reported_with_its_number(run: Run, call: str) -> None:
    """MPS refuses with numbers that an operator looks up."""
    done = run("hold", FAKE_CUDA_FAULT=f"{call}=805")
    failed = events(done)[-1]
    assert (done.returncode, failed["event"], failed["call"]) == (3, "failed", call)
    assert (failed["error"], failed["name"]) == (805, "CUDA_ERROR_MPS_CONNECTION_FAILED")


def test_what_the_compiler_of_kernels_complains_of_is_shown(run: Run) -> None:
    """Nobody can try twice on a GPU that is lent for minutes."""
    failed = events(run("saturate", FAKE_CUDA_FAULT="cuModuleLoadDataEx=218"))[-1]
    assert failed["name"] == "CUDA_ERROR_INVALID_PTX: line 1: no"


def test_without_a_driver_it_says_so(run: Run) -> None:
    """A node without a GPU has no library, which is no crash."""
    done = run("info", LD_LIBRARY_PATH="/nowhere")
    (failed,) = events(done)
    assert (done.returncode, failed["call"], failed["error"]) == (3, "dlopen", None)
