# SPDX-License-Identifier: MPL-2.0
"""What the fake driver promises about sessions, builds and its own steering."""

import re
from contextlib import closing
from pathlib import Path

import pytest

from .driver import DRIVER_KEYS, GPU_KEYS, MIG_KEYS, BuildError, Call, FakeDriver, build, functions
from .probe import Probe
from .queries import (
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    GPU_NOT_FOUND,
    INVALID_ARGUMENT,
    MIB,
    NOT_SUPPORTED,
    UNINITIALIZED,
    UNKNOWN,
    Start,
)


def test_calls_before_init_are_refused(start: Start) -> None:
    """Before init a getter says Uninitialized, while a shutdown is allowed."""
    _, probe = start("h100x8", init=False)
    # pynvml by itself says Uninitialized as long as it has not loaded the library.
    probe.ask("n._LoadNvmlLibrary()")
    assert probe.ask("fails(n.nvmlDeviceGetCount)") == UNINITIALIZED
    assert probe.ask("fails(n.nvmlSystemGetDriverVersion)") == UNINITIALIZED
    assert probe.ask("fails(n.nvmlShutdown)") == 0


def test_old_handles_die_with_the_session(start: Start) -> None:
    """A handle from before a shutdown/init pair is an invalid argument, a new one works."""
    _, probe = start("h100x8")
    probe.ask("old = gpu(0)")
    probe.ask("n.nvmlShutdown()")
    probe.ask("n.nvmlInit()")
    probe.ask("new = gpu(0)")
    assert probe.ask("fails(n.nvmlDeviceGetName, old)") == INVALID_ARGUMENT
    assert probe.ask("fails(n.nvmlDeviceGetName, new)") == 0


def test_init_fails_with_the_profiles_error_and_recovers(start: Start) -> None:
    """Init gives the driver's error until it is cleared, in the same process."""
    driver, probe = start("h100x8", init=False)
    driver.set("driver", "init_error", 18)
    assert probe.ask("fails(n.nvmlInit)") == 18
    driver.clear("driver", "init_error")
    assert probe.ask("fails(n.nvmlInit)") == 0


def test_init_without_gpus_passes_when_it_asks_for_none(start: Start) -> None:
    """The NO_GPUS flag turns GpuNotFound, but no other init error, into success."""
    driver, probe = start("none", init=False)
    driver.set("driver", "init_error", GPU_NOT_FOUND)
    assert probe.ask("fails(n.nvmlInit)") == GPU_NOT_FOUND
    assert probe.ask("fails(n.nvmlInitWithFlags, 1)") == 0
    probe.ask("n.nvmlShutdown()")
    driver.set("driver", "init_error", DRIVER_NOT_LOADED)
    assert probe.ask("fails(n.nvmlInitWithFlags, 1)") == DRIVER_NOT_LOADED


def test_a_machine_without_profile_has_no_driver(library: Path, tmp_path: Path) -> None:
    """Without a profile file, init says that the driver is not loaded."""
    driver = FakeDriver(library, tmp_path)
    with closing(Probe(driver, FAKE_NVML_PROFILE=str(tmp_path / "absent"))) as probe:
        assert probe.ask("fails(n.nvmlInit)") == DRIVER_NOT_LOADED


def test_a_broken_profile_is_no_empty_machine(library: Path, tmp_path: Path) -> None:
    """A profile that cannot be parsed makes init fail with Unknown."""
    driver = FakeDriver(library, tmp_path)
    driver.profile_path.write_text("[driver]\nwhat is this\n")
    with closing(Probe(driver)) as probe:
        assert probe.ask("fails(n.nvmlInit)") == UNKNOWN


def test_versions(start: Start) -> None:
    """The driver, NVML and CUDA versions are the profile's."""
    _, probe = start("h100x8")
    assert probe.ask("n.nvmlSystemGetDriverVersion()") == "590.48.01"
    assert probe.ask("n.nvmlSystemGetNVMLVersion()") == "13.590.48.01"
    assert probe.ask("n.nvmlSystemGetCudaDriverVersion()") == 13010
    assert probe.ask("n.nvmlSystemGetCudaDriverVersion_v2()") == 13010


def test_error_texts(start: Start) -> None:
    """Every code has a text, also before init, and codes nobody knows share one."""
    _, probe = start("none", init=False)
    probe.ask("n._LoadNvmlLibrary()")
    texts = probe.ask("[n.nvmlErrorString(code) for code in (0, 3, 15, 28, 30, 31, -1, 999)]")
    assert all(texts)
    assert len(set(texts[:5])) == 5
    assert set(texts[5:]) == {"unknown error"}


def test_driver_470_lacks_the_newer_functions(old_library: Path, tmp_path: Path) -> None:
    """The old build has the first memory call and not the second, nor the recovery action."""
    driver = FakeDriver(old_library, tmp_path, "t4_old")
    driver.set("gpu 0", "recovery_action", 0)
    with closing(Probe(driver)) as probe:
        probe.ask("n.nvmlInit()")
        probe.ask("h = gpu(0)")
        assert probe.ask("n.nvmlDeviceGetMemoryInfo(h).total") == 15109 * MIB
        for call in (
            "n.nvmlDeviceGetMemoryInfo, h, n.nvmlMemory_v2",
            "n.nvmlDeviceGetTemperatureV, h, 0",
            "n.nvmlDeviceGetGpuMaxPcieLinkGeneration, h",
            "n.nvmlDeviceGetNumaNodeId, h",
        ):
            assert probe.ask(f"fails({call})") == FUNCTION_NOT_FOUND
        values = "n.nvmlDeviceGetFieldValues(h, [230])[0].nvmlReturn"
        assert probe.ask(values) == NOT_SUPPORTED


def test_the_current_driver_has_the_newer_functions(start: Start) -> None:
    """The default build has every function that the sources name, working or NotSupported."""
    _, probe = start("h100x8")
    missing = f"[f for f in {sorted(functions())!r} if not hasattr(n.nvmlLib, f)]"
    assert probe.ask(missing) == []
    assert probe.ask("n.nvmlDeviceGetTemperatureV(gpu(0), 0)") == 41


def test_calls_are_logged_by_process_function_and_device(start: Start) -> None:
    """The log names the process, the function and the GPU or instance, and can be emptied."""
    driver, probe = start("a100_mig")
    driver.forget_calls()
    probe.ask("n.nvmlDeviceGetCount()")
    probe.ask("n.nvmlDeviceGetName(gpu(1))")
    probe.ask("n.nvmlDeviceGetName(mig(0, 2))")
    assert driver.call_log() == [
        Call(probe.pid, "nvmlDeviceGetCount_v2", "-"),
        Call(probe.pid, "nvmlDeviceGetHandleByIndex_v2", "1"),
        Call(probe.pid, "nvmlDeviceGetName", "1"),
        Call(probe.pid, "nvmlDeviceGetHandleByIndex_v2", "0"),
        Call(probe.pid, "nvmlDeviceGetMigDeviceHandleByIndex", "0"),
        Call(probe.pid, "nvmlDeviceGetName", "0.2"),
    ]
    assert driver.calls()["nvmlDeviceGetName"] == 2
    driver.forget_calls()
    assert not driver.calls()


def test_the_compiler_is_chosen_by_cc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing or missing $CC is a BuildError."""
    for compiler in ("false", str(tmp_path / "no-such-compiler")):
        monkeypatch.setenv("CC", compiler)
        with pytest.raises(BuildError):
            build(tmp_path)


def test_misspelt_keys_are_refused(library: Path, tmp_path: Path) -> None:
    """A key, function or section that the library would ignore cannot be set."""
    driver = FakeDriver(library, tmp_path, "h100x8")
    for section, key in (
        ("gpu 0", "temprature_c"),
        ("mig 0.0", "temperature_c"),
        ("gpu 0", "fault.nvmlDeviceGetPciInfo"),
        ("gpu zero", "name"),
    ):
        with pytest.raises(KeyError):
            driver.set(section, key, 1)


def test_every_key_is_one_the_library_reads() -> None:
    """The keys that may be set are exactly those that the C sources mention."""
    here = Path(__file__).parent
    words = set(re.findall(r'"([a-z]\w+)"', "".join(p.read_text() for p in here.glob("*.c"))))
    assert words >= DRIVER_KEYS | GPU_KEYS | MIG_KEYS
    assert words - DRIVER_KEYS - GPU_KEYS - MIG_KEYS <= {
        "driver",
        "fault",
        "hang",
        "slow",
        "once",
        "re",
        "ok",
    }


@pytest.mark.parametrize("name", ["plain", "  blanks  ", "tab\tand\nline", "Größe", ""])
def test_any_text_survives_the_profile(start: Start, name: str) -> None:
    """A name that is set arrives unchanged, whatever characters it holds."""
    driver, probe = start("h100x8")
    driver.set("gpu 0", "name", name)
    assert probe.ask("n.nvmlDeviceGetName(gpu(0))") == name


def test_a_gpu_can_be_added(start: Start) -> None:
    """A new section is one more GPU for programs that are already running."""
    driver, probe = start("none")
    driver.set("gpu 0", "uuid", "GPU-new")
    assert probe.ask("n.nvmlDeviceGetUUID(gpu(0))") == "GPU-new"
