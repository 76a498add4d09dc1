# SPDX-License-Identifier: MPL-2.0
"""The plugin's name, versions and config schema, as Nomad's messages."""

from __future__ import annotations

from collections.abc import Iterable

from nomad_nvidia_vgpu.config.hcl_spec import Attr, Block
from nomad_nvidia_vgpu.rpc.generated import base_pb2, hclspec_pb2

API_VERSION = "v0.1.0"
"""The one device API version that every Nomad from 0.9.0 on supports."""


def plugin_info(name: str, version: str) -> base_pb2.PluginInfoResponse:
    """The plugin's name, version and API versions."""
    return base_pb2.PluginInfoResponse(
        type=base_pb2.DEVICE,
        plugin_api_versions=[API_VERSION],
        plugin_version=version,
        name=name,
    )


def config_schema(schema: Iterable[Attr | Block]) -> base_pb2.ConfigSchemaResponse:
    """What a `config` block may hold."""
    return base_pb2.ConfigSchemaResponse(spec=_object(schema))


def _object(entries: Iterable[Attr | Block]) -> hclspec_pb2.Spec:
    spec = hclspec_pb2.Spec()
    for entry in entries:
        inner = spec.object.attributes[entry.name]
        if isinstance(entry, Attr):
            inner.Attr.name, inner.Attr.type = entry.name, entry.type
        elif entry.label:
            inner.block_map.name = entry.name
            inner.block_map.labels.append(entry.label)
            inner.block_map.nested.CopyFrom(_object(entry.attrs))
        else:
            inner.block_value.name = entry.name
            inner.block_value.nested.CopyFrom(_object(entry.attrs))
    return spec
