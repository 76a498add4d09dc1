# SPDX-License-Identifier: MPL-2.0
"""What Nomad asks of a device plugin. gRPC statuses are chosen here and nowhere else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import grpc

from nomad_nvidia_vgpu.device.plugin import RETRY_S, HangUp, Plugin
from nomad_nvidia_vgpu.errors import NotBegunError, RequestError
from nomad_nvidia_vgpu.goplugin.late import Handlers
from nomad_nvidia_vgpu.rpc import device_messages
from nomad_nvidia_vgpu.rpc.generated import device_pb2
from nomad_nvidia_vgpu.rpc.status import status_text

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class DeviceService:
    """Fingerprint, Reserve and Stats over a `Plugin`."""

    def __init__(self, plugin: Plugin) -> None:
        """Keeps the plugin; starts nothing."""
        self._plugin = plugin

    def Fingerprint(  # noqa: N802  Nomad's name
        self, request: device_pb2.FingerprintRequest, context: grpc.ServicerContext
    ) -> Iterator[device_pb2.FingerprintResponse]:
        """Streams the device set until the host hangs up."""
        hang_up = _hang_up(context)
        for groups in _unending(lambda: self._plugin.fingerprint(hang_up), hang_up):
            yield device_messages.fingerprint(groups)

    def Reserve(  # noqa: N802  Nomad's name
        self, request: device_pb2.ReserveRequest, context: grpc.ServicerContext
    ) -> device_pb2.ReserveResponse:
        """The environment of a task, or a failure whose text is in the task's events."""
        try:
            reserved = self._plugin.reserve(list(request.device_ids))
        except (RequestError, NotBegunError) as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, status_text(error))
        return device_messages.reservation(reserved)

    def Stats(  # noqa: N802  Nomad's name
        self, request: device_pb2.StatsRequest, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """Streams the figures of every vGPU, serialised, until the host hangs up."""
        hang_up = _hang_up(context)
        asked_s = device_messages.interval_s(request)
        for groups in _unending(lambda: self._plugin.stats(hang_up, asked_s), hang_up):
            yield device_messages.stats(groups)


def handlers(plugin: Plugin) -> Handlers:
    """The service's handlers by method name, for `LateService`."""
    service = DeviceService(plugin)
    return {
        "Fingerprint": grpc.unary_stream_rpc_method_handler(
            service.Fingerprint,
            request_deserializer=device_pb2.FingerprintRequest.FromString,
            response_serializer=device_pb2.FingerprintResponse.SerializeToString,
        ),
        "Reserve": grpc.unary_unary_rpc_method_handler(
            service.Reserve,
            request_deserializer=device_pb2.ReserveRequest.FromString,
            response_serializer=device_pb2.ReserveResponse.SerializeToString,
        ),
        "Stats": grpc.unary_stream_rpc_method_handler(
            service.Stats,
            request_deserializer=device_pb2.StatsRequest.FromString,
            response_serializer=bytes,
        ),
    }


def _hang_up(context: grpc.ServicerContext) -> HangUp:
    hang_up = HangUp()
    if not context.add_callback(hang_up.hang_up):
        hang_up.hang_up()
    return hang_up


def _unending(start: Callable[[], Iterator[_T]], hang_up: HangUp) -> Iterator[_T]:
    """What `start` yields, started again should it fail.

    The host gives a failed stream up for good, so no bug of ours may reach it.
    """
    ended = threading.Event()
    hang_up.call(ended.set)
    while hang_up.listening():
        try:
            yield from start()
        except GeneratorExit:
            raise
        except NotBegunError:
            pass  # the log has it
        except Exception:  # noqa: BLE001  see above
            _log.exception("a stream failed in an unforeseen way: starting it again")
        ended.wait(RETRY_S)
