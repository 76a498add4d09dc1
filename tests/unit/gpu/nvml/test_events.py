# SPDX-License-Identifier: MPL-2.0
"""XIDs as NVML delivers them."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from nomad_nvidia_vgpu.gpu.model import XidEvent
from nomad_nvidia_vgpu.gpu.nvml.events import NvmlEvents
from unit.gpu.nvml.scripted_nvml import GPU_IS_LOST, NVMLError, ScriptedNvml

XID_BIT = 8
WHOLE_GPU = 0xFFFFFFFF
TIMEOUT = NVMLError(10)


def handle() -> Any:
    """Gives a handle at an address of its own."""
    return ctypes.pointer(ctypes.c_int())


class Registering:
    """Events over a scripted NVML that remembers what was registered, and in which set."""

    def __init__(self, **answers: Any) -> None:
        """Watches no GPU yet; all support XIDs, and no event comes."""
        self.registered: list[tuple[Any, int, int]] = []
        self.freed: list[int] = []
        self._sets = 0
        working = {
            "EventSetCreate": self._create,
            "EventSetFree": self.freed.append,
            "EventSetWait_v2": TIMEOUT,
            "SupportedEventTypes": 0xFF,
            "DeviceRegisterEvents": lambda *args: self.registered.append(args),
        }
        self.nvml = ScriptedNvml(**{**working, **answers})
        self.events = NvmlEvents(self.nvml)

    def _create(self) -> int:
        self._sets += 1
        return self._sets

    def happen(self, on: Any, xid: int, kind: int = XID_BIT, **instance: int) -> None:
        """Lets this event be the next."""
        where = {"gpuInstanceId": WHOLE_GPU, "computeInstanceId": WHOLE_GPU, **instance}
        event = SimpleNamespace(device=on, eventType=kind, eventData=xid, **where)
        self.nvml.set(EventSetWait_v2=event)


def test_an_xid_is_an_event_of_its_gpu() -> None:
    """An XID comes with the UUID of its GPU, of which it concerns all."""
    nvml, a = Registering(), handle()
    nvml.events.watch("GPU-a", a)
    nvml.happen(a, 79)
    assert nvml.events.wait(1.0) == (XidEvent("GPU-a", 79),)


def test_an_xid_of_an_instance_has_its_numbers() -> None:
    """An XID in a MIG device comes with the numbers of its instances."""
    nvml, a = Registering(), handle()
    nvml.events.watch("GPU-a", a)
    nvml.happen(a, 48, gpuInstanceId=2, computeInstanceId=0)
    assert nvml.events.wait(1.0) == (XidEvent("GPU-a", 48, 2, 0),)


def test_only_xids_are_registered() -> None:
    """Of all that a GPU supports, it is registered for XIDs and nothing else."""
    nvml, a = Registering(), handle()
    nvml.events.watch("GPU-a", a)
    nvml.events.wait(1.0)
    assert nvml.registered == [(a, XID_BIT, 1)]


def test_a_gpu_without_xids_is_not_registered() -> None:
    """A GPU that supports other events only is left out, and nothing is waited for."""
    nvml = Registering(SupportedEventTypes=0xF7)
    nvml.events.watch("GPU-a", handle())
    assert nvml.events.wait(1.0) == ()
    assert nvml.registered == []
    assert nvml.nvml.calls["EventSetWait_v2"] == 0


@pytest.mark.parametrize("call", ["SupportedEventTypes", "DeviceRegisterEvents"])
def test_a_gpu_that_refuses_is_passed_over(call: str) -> None:
    """A GPU that cannot be registered does not keep the others from their events."""
    refusing, willing = handle(), handle()
    nvml = Registering()
    usual = nvml.nvml._answers[call]

    def answer(asked: Any, *rest: Any) -> Any:
        if asked is refusing:
            return NVMLError(GPU_IS_LOST)
        return usual(asked, *rest) if callable(usual) else usual

    nvml.nvml.set(**{call: answer})
    nvml.events.watch("GPU-a", refusing)
    nvml.events.watch("GPU-b", willing)
    nvml.events.wait(1.0)
    assert [asked for asked, _, _ in nvml.registered] == [willing]


def test_no_event_in_time_is_none() -> None:
    """A wait that times out brings no events, keeps the set and is no failure."""
    nvml = Registering()
    nvml.events.watch("GPU-a", handle())
    for _ in range(3):
        assert nvml.events.wait(1.0) == ()
    assert nvml.nvml.calls["EventSetCreate"] == 1


def test_the_time_to_wait_is_handed_on() -> None:
    """NVML waits for as many milliseconds as were asked for."""
    asked: list[Any] = []

    def wait(*args: Any) -> NVMLError:
        asked.append(args)
        return TIMEOUT

    nvml = Registering(EventSetWait_v2=wait)
    nvml.events.watch("GPU-a", handle())
    nvml.events.wait(1.5)
    assert asked == [(1, 1500)]


def test_without_gpus_nothing_is_waited_for() -> None:
    """Before any GPU is known, a wait comes back at once."""
    nvml = Registering()
    assert nvml.events.wait(1.0) == ()
    assert nvml.nvml.calls["EventSetWait_v2"] == 0


def test_a_failure_makes_a_new_set() -> None:
    """A wait that fails says so and frees the set; the next wait registers all in a new one."""
    nvml, a = Registering(EventSetWait_v2=NVMLError(GPU_IS_LOST)), handle()
    nvml.events.watch("GPU-a", a)
    with pytest.raises(NVMLError):
        nvml.events.wait(1.0)
    assert nvml.freed == [1]
    nvml.happen(a, 79)
    assert nvml.events.wait(1.0) == (XidEvent("GPU-a", 79),)
    assert [number for _, _, number in nvml.registered] == [1, 2]


def test_a_set_that_cannot_be_made_is_tried_again() -> None:
    """A failure to make a set is told, and the next wait tries again."""
    nvml = Registering()
    nvml.events.watch("GPU-a", handle())
    nvml.nvml.set(EventSetCreate=NVMLError(GPU_IS_LOST))
    with pytest.raises(NVMLError):
        nvml.events.wait(1.0)
    nvml.nvml.set(EventSetCreate=7)
    nvml.events.wait(1.0)
    assert [number for _, _, number in nvml.registered] == [7]


def test_an_event_of_an_unknown_handle_is_passed_over() -> None:
    """An event of a GPU that was never watched is no one's."""
    nvml = Registering()
    nvml.events.watch("GPU-a", handle())
    nvml.happen(handle(), 79)
    assert nvml.events.wait(1.0) == ()


def test_an_event_that_is_no_xid_is_passed_over() -> None:
    """An event of another kind has no XID."""
    nvml, a = Registering(), handle()
    nvml.events.watch("GPU-a", a)
    nvml.happen(a, 79, kind=16)
    assert nvml.events.wait(1.0) == ()


def test_a_known_handle_registers_nothing_anew() -> None:
    """Each look tells of the same handle again, and the set stays as it is."""
    nvml, a = Registering(), handle()
    for _ in range(3):
        nvml.events.watch("GPU-a", a)
        nvml.events.wait(1.0)
    assert len(nvml.registered) == 1


def test_a_new_handle_is_added_to_the_set() -> None:
    """A GPU that comes, or comes back under another handle, costs the others no event."""
    nvml, old, new, other = Registering(), handle(), handle(), handle()
    nvml.events.watch("GPU-a", old)
    nvml.events.wait(1.0)
    nvml.events.watch("GPU-a", new)
    nvml.events.watch("GPU-b", other)
    nvml.events.wait(1.0)
    assert nvml.freed == []
    assert nvml.registered == [(asked, XID_BIT, 1) for asked in (old, new, other)]
    nvml.happen(new, 79)
    assert nvml.events.wait(1.0) == (XidEvent("GPU-a", 79),)
