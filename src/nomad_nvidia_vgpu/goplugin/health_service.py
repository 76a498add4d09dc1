# SPDX-License-Identifier: MPL-2.0
"""gRPC's health service for the name `plugin`, as go-plugin asks for it."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from nomad_nvidia_vgpu.goplugin.late import Handlers


def handlers() -> Handlers:
    """The handlers of `grpc.health.v1.Health`; we are serving as long as we answer."""
    servicer = health.HealthServicer()
    servicer.set("plugin", health_pb2.HealthCheckResponse.SERVING)
    codec: dict[str, Any] = {
        "request_deserializer": health_pb2.HealthCheckRequest.FromString,
        "response_serializer": health_pb2.HealthCheckResponse.SerializeToString,
    }
    return {
        "Check": grpc.unary_unary_rpc_method_handler(servicer.Check, **codec),
        "Watch": grpc.unary_stream_rpc_method_handler(servicer.Watch, **codec),
    }
