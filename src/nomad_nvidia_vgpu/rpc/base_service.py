# SPDX-License-Identifier: MPL-2.0
"""What Nomad asks of any plugin: its name and version, its config schema, and to take a config."""

from __future__ import annotations

import logging
from collections.abc import Callable

import grpc

from nomad_nvidia_vgpu import __version__
from nomad_nvidia_vgpu.config.decode import UNCONFIGURED, decode_msgpack
from nomad_nvidia_vgpu.config.hcl_spec import schema
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import ConfigError
from nomad_nvidia_vgpu.goplugin.logs import LEVEL_NAMES
from nomad_nvidia_vgpu.rpc import base_messages
from nomad_nvidia_vgpu.rpc.generated import base_pb2, base_pb2_grpc
from nomad_nvidia_vgpu.rpc.status import status_text

PLUGIN_NAME = "nvidia-vgpu"
"""The plugin's name, and the name its file in plugin_dir must have."""

_log = logging.getLogger(__name__)


class BaseService(base_pb2_grpc.BasePluginServicer):
    """PluginInfo, ConfigSchema and SetConfig; none of them touches hardware."""

    def __init__(self, at_work: Callable[[], bool]) -> None:
        """Has the config of an empty block until Nomad sends one.

        `at_work` says whether the config is in use already: it is then too late for another.
        """
        self._at_work = at_work
        self.config = PluginConfig()
        """The newest valid config; Nomad sends the same one twice."""
        self._warned = False

    def PluginInfo(  # noqa: N802  Nomad's name
        self, request: base_pb2.PluginInfoRequest, context: grpc.ServicerContext
    ) -> base_pb2.PluginInfoResponse:
        """Name, version and API version."""
        return base_messages.plugin_info(PLUGIN_NAME, __version__)

    def ConfigSchema(  # noqa: N802  Nomad's name
        self, request: base_pb2.ConfigSchemaRequest, context: grpc.ServicerContext
    ) -> base_pb2.ConfigSchemaResponse:
        """The options and their types."""
        return base_messages.config_schema(schema())

    def SetConfig(  # noqa: N802  Nomad's name
        self, request: base_pb2.SetConfigRequest, context: grpc.ServicerContext
    ) -> base_pb2.SetConfigResponse:
        """Takes the config, or fails with every problem; the text reaches the operator."""
        try:
            config = decode_msgpack(request.msgpack_config)
        except ConfigError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, status_text(error))
        if self._at_work():
            if config != self.config:
                _log.warning("a new config came while serving: restart the agent to apply it")
            return base_pb2.SetConfigResponse()
        logging.getLogger("nomad_nvidia_vgpu").setLevel(LEVEL_NAMES[config.log_level])
        if config.enabled and not config.configured and not self._warned:
            self._warned = True
            _log.warning("%s", UNCONFIGURED)
        self.config = config
        return base_pb2.SetConfigResponse()
