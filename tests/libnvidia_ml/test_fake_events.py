# SPDX-License-Identifier: MPL-2.0
"""What the fake driver promises about event sets."""

from contextlib import closing
from pathlib import Path

from .driver import Call, FakeDriver
from .probe import Probe
from .queries import (
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    NOT_SUPPORTED,
    TIMEOUT,
    UNINITIALIZED,
    XID,
    Start,
    wait_for_call,
)


def listen(probe: Probe, *indices: int, types: int = XID) -> None:
    """Make `s` in the child an event set that has these GPUs registered."""
    probe.ask("s = n.nvmlEventSetCreate()")
    for index in indices:
        probe.ask(f"n.nvmlDeviceRegisterEvents(gpu({index}), {types}, s)")


def test_an_event_is_delivered_once_and_in_full(start: Start) -> None:
    """A new event comes with its device, type and data, one time."""
    driver, probe = start("h100x8")
    listen(probe, 0, 1)
    driver.push_event(1, XID, 79)
    probe.ask("e = n.nvmlEventSetWait_v2(s, 120000)")
    assert probe.ask("address(e.device) == address(gpu(1))")
    assert probe.ask("(e.eventType, e.eventData)") == (XID, 79)
    assert probe.ask("(e.gpuInstanceId, e.computeInstanceId)") == (0xFFFFFFFF, 0xFFFFFFFF)
    assert probe.ask("fails(n.nvmlEventSetWait_v2, s, 0)") == TIMEOUT


def test_events_from_before_registration_are_never_delivered(start: Start) -> None:
    """A set hears only what happens after the GPU was registered in it."""
    driver, probe = start("h100x8")
    driver.push_event(0, XID, 48)
    listen(probe, 0)
    assert probe.ask("fails(n.nvmlEventSetWait_v2, s, 0)") == TIMEOUT
    driver.push_event(0, XID, 95)
    assert probe.ask("n.nvmlEventSetWait_v2(s, 120000).eventData") == 95


def test_events_come_in_the_order_they_happened(start: Start) -> None:
    """Events of several GPUs are delivered oldest first."""
    driver, probe = start("h100x8")
    listen(probe, 0, 1, 2)
    for index, xid in ((1, 31), (0, 13), (2, 43), (1, 45)):
        driver.push_event(index, XID, xid)
    waits = "[n.nvmlEventSetWait_v2(s, 120000).eventData for _ in range(4)]"
    assert probe.ask(waits) == [31, 13, 43, 45]


def test_other_types_and_other_gpus_stay_silent(start: Start) -> None:
    """A set hears only the types and GPUs registered in it."""
    driver, probe = start("h100x8")
    listen(probe, 0)
    driver.push_event(0, 0x2, 0)
    driver.push_event(1, XID, 79)
    assert probe.ask("fails(n.nvmlEventSetWait_v2, s, 0)") == TIMEOUT


def test_an_event_of_an_instance_names_it(start: Start) -> None:
    """An event of the parent carries the GPU and compute instance at fault."""
    driver, probe = start("a100_mig")
    listen(probe, 0)
    driver.push_event(0, XID, 94, gi=2, ci=0)
    probe.ask("e = n.nvmlEventSetWait_v2(s, 120000)")
    assert probe.ask("(e.eventData, e.gpuInstanceId, e.computeInstanceId)") == (94, 2, 0)


def test_an_unsupported_type_registers_nothing(start: Start) -> None:
    """One bit too many makes registration fail whole: the supported types are not heard."""
    driver, probe = start("h100x8")
    probe.ask("s = n.nvmlEventSetCreate()")
    code = probe.ask(f"fails(n.nvmlDeviceRegisterEvents, gpu(0), {XID | 0x8000}, s)")
    assert code == NOT_SUPPORTED
    driver.push_event(0, XID, 79)
    assert probe.ask("fails(n.nvmlEventSetWait_v2, s, 0)") == TIMEOUT


def test_instances_take_no_registration(start: Start) -> None:
    """Registering a MIG handle for events is NotSupported."""
    _, probe = start("a100_mig")
    probe.ask("s = n.nvmlEventSetCreate()")
    assert probe.ask("fails(n.nvmlDeviceRegisterEvents, mig(0, 0), 8, s)") == NOT_SUPPORTED


def test_a_wait_lasts_its_whole_timeout(start: Start) -> None:
    """A wait without event blocks for the time asked, then says Timeout."""
    _, probe = start("h100x8")
    listen(probe, 0)
    probe.ask("begun = time.monotonic()")
    assert probe.ask("fails(n.nvmlEventSetWait_v2, s, 250)") == TIMEOUT
    # The fake counts in whole milliseconds.
    assert probe.ask("time.monotonic() - begun") >= 0.248


def start_waiting(driver: FakeDriver, probe: Probe) -> None:
    """Let a thread `t` in the child wait for two minutes; `got` collects its data or code."""
    probe.ask("got = []")
    probe.ask(
        "def wait():\n"
        "    try:\n"
        "        got.append(n.nvmlEventSetWait_v2(s, 120000).eventData)\n"
        "    except n.NVMLError as error:\n"
        "        got.append(-error.value)"
    )
    probe.ask("t = threading.Thread(target=wait, daemon=True)")
    probe.ask("t.start()")
    wait_for_call(driver, Call(probe.pid, "nvmlEventSetWait_v2", "-"))


def test_a_waiting_thread_is_woken_and_blocks_nobody(start: Start) -> None:
    """While one thread waits others call freely, and an event ends the wait early."""
    driver, probe = start("h100x8")
    listen(probe, 0)
    start_waiting(driver, probe)
    assert probe.ask("n.nvmlDeviceGetCount()") == 8
    assert probe.ask("got") == []
    driver.push_event(0, XID, 119)
    probe.ask("t.join(120)")
    assert probe.ask("got") == [119]


def test_a_set_counts_as_listening_once_it_is_waited_for(start: Start) -> None:
    """The GPUs listened to are those of the newest set, from the first wait for it on."""
    driver, probe = start("h100x8")
    assert driver.listened_to() == set()
    listen(probe, 0, 1)
    assert driver.listened_to() == set()
    probe.ask("fails(n.nvmlEventSetWait_v2, s, 0)")
    assert driver.listened_to() == {"0", "1"}
    listen(probe, 2)
    assert driver.listened_to() == set()
    probe.ask("fails(n.nvmlEventSetWait_v2, s, 0)")
    assert driver.listened_to() == {"2"}


def test_a_shutdown_ends_a_wait(start: Start) -> None:
    """A shutdown under a waiting thread sends it away with Uninitialized."""
    driver, probe = start("h100x8")
    listen(probe, 0)
    start_waiting(driver, probe)
    probe.ask("n.nvmlShutdown()")
    probe.ask("t.join(120)")
    assert probe.ask("got") == [-UNINITIALIZED]


def test_old_and_freed_event_sets_are_invalid(start: Start) -> None:
    """An event set dies when it is freed, and with the session it was made in."""
    _, probe = start("h100x8")
    listen(probe, 0)
    probe.ask("n.nvmlEventSetFree(s)")
    assert probe.ask("fails(n.nvmlEventSetWait_v2, s, 0)") == INVALID_ARGUMENT
    assert probe.ask("fails(n.nvmlEventSetFree, s)") == INVALID_ARGUMENT
    listen(probe, 0)
    probe.ask("n.nvmlShutdown()")
    probe.ask("n.nvmlInit()")
    assert probe.ask("fails(n.nvmlEventSetWait_v2, s, 0)") == INVALID_ARGUMENT


def test_a_wait_error_comes_at_once_and_again(start: Start) -> None:
    """A wait error ends a wait that is under way and every later one, until cleared."""
    driver, probe = start("h100x8")
    listen(probe, 0)
    start_waiting(driver, probe)
    driver.set("driver", "wait_error", GPU_IS_LOST)
    probe.ask("t.join(120)")
    assert probe.ask("got") == [-GPU_IS_LOST]
    assert probe.ask("fails(n.nvmlEventSetWait_v2, s, 120000)") == GPU_IS_LOST
    driver.clear("driver", "wait_error")
    assert probe.ask("fails(n.nvmlEventSetWait_v2, s, 0)") == TIMEOUT
    assert driver.calls()["nvmlEventSetWait_v2"] == 3


def test_a_gpus_wait_error_spares_sets_without_it(start: Start) -> None:
    """A wait error of one GPU hits the sets that have it registered and no others."""
    driver, probe = start("h100x8")
    listen(probe, 0, 1)
    probe.ask("broken = s")
    listen(probe, 0)
    driver.set("gpu 1", "wait_error", GPU_IS_LOST)
    assert probe.ask("fails(n.nvmlEventSetWait_v2, broken, 60000)") == GPU_IS_LOST
    assert probe.ask("fails(n.nvmlEventSetWait_v2, s, 0)") == TIMEOUT


def test_each_process_hears_an_event_once(library: Path, tmp_path: Path) -> None:
    """Two processes both get the same event, one time each."""
    driver = FakeDriver(library, tmp_path, "h100x8")
    with closing(Probe(driver)) as first, closing(Probe(driver)) as second:
        for probe in (first, second):
            probe.ask("n.nvmlInit()")
            listen(probe, 0)
        driver.push_event(0, XID, 79)
        for probe in (first, second):
            assert probe.ask("n.nvmlEventSetWait_v2(s, 120000).eventData") == 79
            assert probe.ask("fails(n.nvmlEventSetWait_v2, s, 0)") == TIMEOUT


def test_the_event_of_a_lost_gpu_still_arrives(start: Start) -> None:
    """The XID of a GPU that went away is delivered though the GPU cannot be asked any more."""
    driver, probe = start("h100x8")
    listen(probe, 0)
    driver.set("gpu 0", "lost", 1)
    driver.push_event(0, XID, 79)
    probe.ask("e = n.nvmlEventSetWait_v2(s, 120000)")
    assert probe.ask("e.eventData") == 79
    assert probe.ask("fails(n.nvmlDeviceGetUUID, e.device)") == GPU_IS_LOST
