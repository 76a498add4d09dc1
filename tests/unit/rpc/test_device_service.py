# SPDX-License-Identifier: MPL-2.0
"""What Nomad asks of a device plugin."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device.plugin import HangUp, Plugin
from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus
from nomad_nvidia_vgpu.gpu.simulated import SimulatedSource
from nomad_nvidia_vgpu.rpc.device_service import DeviceService, _unending, handlers
from nomad_nvidia_vgpu.rpc.generated import device_pb2
from unit.manual_clock import DEADLINE_S
from unit.rpc.fake_context import Aborted, FakeContext

L4 = "GPU-09ab4097-8b81-5678-a951-49dea788ca34"
"""The UUID of the simulated GPU."""


@pytest.fixture
def service() -> Iterator[DeviceService]:
    """Gives a service over one simulated GPU; ends its threads after the test."""
    before = set(threading.enumerate())
    plugin = Plugin(SimulatedSource, PluginConfig(vgpus=2, simulate=(SimulatedGpus("l4", 1),)))
    yield DeviceService(plugin)
    plugin.stop()
    for thread in set(threading.enumerate()) - before:
        thread.join(DEADLINE_S)


def test_the_fingerprint_is_streamed(service: DeviceService) -> None:
    """The stream of fingerprints begins with all vGPUs and ends when the host hangs up."""
    context = FakeContext()
    stream = service.Fingerprint(device_pb2.FingerprintRequest(), context.as_context())
    first = next(stream)
    assert [d.ID for d in first.device_group[0].devices] == [f"{L4}-0", f"{L4}-1"]
    context.hang_up()
    assert list(stream) == []


def test_stats_are_streamed(service: DeviceService) -> None:
    """The stream of stats has every vGPU of the fingerprint and ends when the host hangs up."""
    next(service.Fingerprint(device_pb2.FingerprintRequest(), FakeContext().as_context()))
    context = FakeContext()
    stream = service.Stats(device_pb2.StatsRequest(), context.as_context())
    response = device_pb2.StatsResponse.FromString(next(stream))
    assert set(response.groups[0].instance_stats) == {f"{L4}-0", f"{L4}-1"}
    context.hang_up()
    assert list(stream) == []


def test_a_host_that_hung_up_before_is_sent_nothing(service: DeviceService) -> None:
    """A call whose host is gone before it began sends nothing."""
    context = FakeContext(over=True).as_context()
    assert list(service.Fingerprint(device_pb2.FingerprintRequest(), context)) == []
    assert list(service.Stats(device_pb2.StatsRequest(), context)) == []


def test_a_reservation_is_answered(service: DeviceService) -> None:
    """A reservation has the environment of the task."""
    next(service.Fingerprint(device_pb2.FingerprintRequest(), FakeContext().as_context()))
    request = device_pb2.ReserveRequest(device_ids=[f"{L4}-1"])
    answer = service.Reserve(request, FakeContext().as_context())
    assert answer.container_res.envs["NVIDIA_VGPU_IDS"] == f"{L4}-1"


@pytest.mark.parametrize("ids", [[], ["GPU-z-0"], ["nonsense", f"{L4}-0"]])
def test_a_wrong_reservation_is_refused(service: DeviceService, ids: list[str]) -> None:
    """A request that cannot be granted fails as a precondition, with the sentence."""
    next(service.Fingerprint(device_pb2.FingerprintRequest(), FakeContext().as_context()))
    request = device_pb2.ReserveRequest(device_ids=ids)
    with pytest.raises(Aborted, match=r"count of at least 1|cannot reserve") as refused:
        service.Reserve(request, FakeContext().as_context())
    assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION


def test_a_failure_of_ours_does_not_end_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    """A stream that fails is logged and kept open until the host hangs up, never an error."""
    hang_up = HangUp()
    failed = threading.Event()

    def start() -> Iterator[int]:
        yield 1
        failed.set()
        raise ZeroDivisionError

    received: list[int] = []
    reading = threading.Thread(target=lambda: received.extend(_unending(start, hang_up)))
    reading.start()
    assert failed.wait(DEADLINE_S)
    hang_up.hang_up()
    reading.join(DEADLINE_S)
    assert not reading.is_alive()
    assert received[0] == 1
    assert "unforeseen" in caplog.text


def test_a_stream_that_the_server_closes_is_closed() -> None:
    """When gRPC closes a stream, it ends at once and is not started again."""
    starts: list[int] = []

    def start() -> Iterator[int]:
        starts.append(1)
        yield 1
        yield 2

    stream = _unending(start, HangUp())
    assert next(stream) == 1
    stream.close()  # type: ignore[attr-defined]
    assert starts == [1]


def test_the_service_has_nomads_three_calls(service: DeviceService) -> None:
    """Each of Nomad's calls has a handler of its kind that reads and writes its messages."""
    found = handlers(service._plugin)
    kinds = {name: (h.request_streaming, h.response_streaming) for name, h in found.items()}
    assert kinds == {
        "Fingerprint": (False, True),
        "Reserve": (False, False),
        "Stats": (False, True),
    }
    request = device_pb2.ReserveRequest(device_ids=["GPU-z-0"])
    read: Any = found["Reserve"].request_deserializer
    assert read(request.SerializeToString()) == request
