# SPDX-License-Identifier: MPL-2.0
"""What the fake driver promises about compute modes, the one thing that programs can set."""

from contextlib import closing

from .driver import Call
from .probe import Probe
from .queries import NO_PERMISSION, NOT_SUPPORTED, Start

DEFAULT, EXCLUSIVE_THREAD, PROHIBITED, EXCLUSIVE_PROCESS = range(4)

MODE = "n.nvmlDeviceGetComputeMode"
SET = "n.nvmlDeviceSetComputeMode"


def test_a_mode_that_is_set_is_the_mode_of_that_gpu(start: Start) -> None:
    """A set mode is read back by programs and by the test, and other GPUs keep theirs."""
    driver, probe = start("h100x8")
    probe.ask(f"{SET}(gpu(2), {EXCLUSIVE_PROCESS})")
    assert probe.ask(f"[{MODE}(gpu(i)) for i in (1, 2)]") == [DEFAULT, EXCLUSIVE_PROCESS]
    assert driver.compute_mode("gpu 1") == DEFAULT
    assert driver.compute_mode("gpu 2") == EXCLUSIVE_PROCESS
    probe.ask(f"{SET}(gpu(2), {DEFAULT})")
    assert probe.ask(f"{MODE}(gpu(2))") == DEFAULT


def test_a_mode_outlives_the_session_and_the_process(start: Start) -> None:
    """Neither shutdown nor the end of the process that set it takes a mode back."""
    driver, probe = start("h100x8")
    probe.ask(f"{SET}(gpu(0), {EXCLUSIVE_PROCESS})")
    probe.ask("n.nvmlShutdown()")
    probe.ask("n.nvmlInit()")
    assert probe.ask(f"{MODE}(gpu(0))") == EXCLUSIVE_PROCESS
    probe.close()
    with closing(Probe(driver)) as another:
        another.ask("n.nvmlInit()")
        assert another.ask(f"{MODE}(gpu(0))") == EXCLUSIVE_PROCESS


def test_a_mode_outlives_other_changes(start: Start) -> None:
    """Steering the machine, or another index for the GPU, leaves a set mode in force."""
    driver, probe = start("h100x8")
    probe.ask(f"{SET}(gpu(1), {EXCLUSIVE_PROCESS})")
    driver.set("gpu 1", "temperature_c", 90)
    driver.remove_section("gpu 0")
    assert probe.ask(f"{MODE}(gpu(0))") == EXCLUSIVE_PROCESS


def test_a_reloaded_driver_has_forgotten_the_modes(start: Start) -> None:
    """After the driver was loaded again the profile's mode is in force."""
    driver, probe = start("h100x8")
    driver.set("gpu 1", "compute_mode", PROHIBITED)
    probe.ask(f"[{SET}(gpu(i), {EXCLUSIVE_PROCESS}) for i in (0, 1)]")
    driver.reload_driver()
    assert probe.ask(f"[{MODE}(gpu(i)) for i in (0, 1)]") == [DEFAULT, PROHIBITED]
    assert driver.compute_mode("gpu 1") == PROHIBITED


def test_an_administrator_can_change_a_mode(start: Start) -> None:
    """A mode that the test sets is seen by programs that are running."""
    driver, probe = start("h100x8")
    probe.ask(f"{SET}(gpu(0), {EXCLUSIVE_PROCESS})")
    driver.set_compute_mode("gpu 0", DEFAULT)
    assert probe.ask(f"{MODE}(gpu(0))") == DEFAULT


def test_a_user_without_permission_changes_nothing(start: Start) -> None:
    """A permission fault on the setter leaves the mode as it is, and readable."""
    driver, probe = start("h100x8")
    driver.set("gpu 0", "fault.nvmlDeviceSetComputeMode", NO_PERMISSION)
    assert probe.ask(f"fails({SET}, gpu(0), {EXCLUSIVE_PROCESS})") == NO_PERMISSION
    assert probe.ask(f"{MODE}(gpu(0))") == DEFAULT


def test_a_gpu_without_modes(start: Start) -> None:
    """Without the key there is no mode to read or to set."""
    driver, probe = start("h100x8")
    driver.clear("gpu 0", "compute_mode")
    assert probe.ask(f"fails({MODE}, gpu(0))") == NOT_SUPPORTED
    assert probe.ask(f"fails({SET}, gpu(0), {EXCLUSIVE_PROCESS})") == NOT_SUPPORTED
    assert driver.compute_mode("gpu 0") is None


def test_a_gpu_in_mig_mode_has_no_mode_of_its_own(start: Start) -> None:
    """With MIG on, the mode is each instance's: readable there, and nowhere to be set."""
    _, probe = start("a100_mig")
    assert probe.ask(f"fails({MODE}, gpu(0))") == NOT_SUPPORTED
    assert probe.ask(f"{MODE}(mig(0, 0))") == DEFAULT
    for device in ("gpu(0)", "mig(0, 0)"):
        assert probe.ask(f"fails({SET}, {device}, {EXCLUSIVE_PROCESS})") == NOT_SUPPORTED
    assert probe.ask(f"fails({SET}, gpu(1), {EXCLUSIVE_PROCESS})") == 0


def test_setting_a_mode_is_logged(start: Start) -> None:
    """The call log names the GPU whose mode was set."""
    driver, probe = start("h100x8")
    probe.ask("h = gpu(3)")
    driver.forget_calls()
    probe.ask(f"{SET}(h, {EXCLUSIVE_PROCESS})")
    assert driver.call_log() == [Call(probe.pid, "nvmlDeviceSetComputeMode", "3")]
