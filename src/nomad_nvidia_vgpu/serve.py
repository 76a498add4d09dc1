# SPDX-License-Identifier: MPL-2.0
"""The plugin as a whole: services, hardware and go-plugin joined. Imported only when serving."""

from __future__ import annotations

import os
import signal
import sys

import grpc

from nomad_nvidia_vgpu.cookie import COOKIE_KEY, COOKIE_VALUE, PROTOCOL_VERSION
from nomad_nvidia_vgpu.goplugin import logs, server
from nomad_nvidia_vgpu.goplugin.handshake import Handshake, HandshakeError
from nomad_nvidia_vgpu.goplugin.late import Handlers, LateService
from nomad_nvidia_vgpu.host.files import unsafe
from nomad_nvidia_vgpu.rpc.base_service import BaseService
from nomad_nvidia_vgpu.rpc.generated import base_pb2_grpc

SWITCH_S = 0.0005
"""How long a thread keeps others from running. A call goes through many hands: at Python's 5 ms each
of them would wait as long beside a thread that reads what very many processes say of themselves."""

LAST_WORDS_S = 0.5
"""How long the host may take to read the last lines of the log."""

DEVICE_SERVICE = "hashicorp.nomad.plugins.device.DevicePlugin"


def run() -> int:
    """Serves until the host lets go; the exit status."""
    sys.setswitchinterval(SWITCH_S)
    log = logs.configure("nomad_nvidia_vgpu", sys.stderr)

    base = BaseService(at_work=lambda: device.called)
    device = LateService(DEVICE_SERVICE, lambda: _device_handlers(base))

    def register(grpc_server: grpc.Server) -> None:
        base_pb2_grpc.add_BasePluginServicer_to_server(base, grpc_server)
        grpc_server.add_generic_rpc_handlers((device,))

    try:
        server.serve(
            Handshake(COOKIE_KEY, COOKIE_VALUE, PROTOCOL_VERSION),
            register,
            environment=os.environ,
            objection=lambda path: unsafe(path, {0, os.geteuid()}),
            reattachable=lambda: device.called,
        )
    except HandshakeError as error:
        log.error("%s", error)  # noqa: TRY400  the operator needs the sentence alone
        return 1
    except Exception:
        log.exception("the plugin failed in an unforeseen way: report this as a bug")
        return 1
    finally:
        logs.drain(log, LAST_WORDS_S)
    return 0


def _device_handlers(base: BaseService) -> Handlers:
    """The device service, at its first call: two of three launches never make one.

    What is behind it - GPUs, sharing, ctypes - is a fifth of what a launch imports.
    """
    from nomad_nvidia_vgpu.device.plugin import Plugin  # noqa: PLC0415
    from nomad_nvidia_vgpu.gpu.source import source_of  # noqa: PLC0415
    from nomad_nvidia_vgpu.rpc import device_service  # noqa: PLC0415

    return device_service.handlers(Plugin(source_of, base.config, _leave))


def _leave() -> None:
    """Ends this process as an operator would: Nomad starts another at once."""
    os.kill(os.getpid(), signal.SIGTERM)
