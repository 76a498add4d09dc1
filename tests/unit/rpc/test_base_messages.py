# SPDX-License-Identifier: MPL-2.0
"""Who we are and what our config may hold, as Nomad's messages."""

from __future__ import annotations

from nomad_nvidia_vgpu.config.hcl_spec import Attr, Block
from nomad_nvidia_vgpu.rpc import base_messages
from nomad_nvidia_vgpu.rpc.generated import base_pb2


def test_a_plugin_says_who_it_is() -> None:
    """The plugin is a device plugin with its name, version and the one API version."""
    arrived = base_messages.plugin_info("nvidia-vgpu", "1.2.3")
    assert arrived.type == base_pb2.DEVICE
    assert (arrived.name, arrived.plugin_version) == ("nvidia-vgpu", "1.2.3")
    assert list(arrived.plugin_api_versions) == ["v0.1.0"]


def test_the_schema_arrives_whole() -> None:
    """Each option is an optional attribute of its type in the one object of the schema."""
    arrived = base_messages.config_schema([Attr("vgpus", "number"), Attr("vendor", "string")])
    attributes = arrived.spec.object.attributes
    assert {n: (a.Attr.name, a.Attr.type, a.Attr.required) for n, a in attributes.items()} == {
        "vgpus": ("vgpus", "number", False),
        "vendor": ("vendor", "string", False),
    }


def test_a_block_arrives_with_what_is_in_it() -> None:
    """A block is an optional block of one object that holds its attributes."""
    arrived = base_messages.config_schema([Block("health", (Attr("end_tasks", "bool"),))])
    block = arrived.spec.object.attributes["health"].block_value
    inner = block.nested.object.attributes["end_tasks"].Attr
    assert (block.name, block.required) == ("health", False)
    assert (inner.name, inner.type, inner.required) == ("end_tasks", "bool", False)


def test_blocks_with_labels_arrive_as_a_map() -> None:
    """Blocks that may stand many times are a map from their one label to what is in them."""
    block = Block("gpu", (Attr("vgpus", "number"),), label="selector")
    arrived = base_messages.config_schema([block]).spec.object.attributes["gpu"].block_map
    assert (arrived.name, list(arrived.labels)) == ("gpu", ["selector"])
    assert arrived.nested.object.attributes["vgpus"].Attr.type == "number"
