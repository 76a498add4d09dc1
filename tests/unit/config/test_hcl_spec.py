# SPDX-License-Identifier: MPL-2.0
"""The schema that Nomad checks a config block against."""

from __future__ import annotations

from nomad_nvidia_vgpu.config.hcl_spec import Attr, Block, schema


def test_the_schema_has_every_option_with_its_type() -> None:
    """Nomad is told of each option by its name and HCL type."""
    assert {e.name: e.type for e in schema() if isinstance(e, Attr)} == {
        "enabled": "bool",
        "vgpus": "number",
        "vgpu_memory": "string",
        "ignored_gpu_ids": "list(string)",
        "fingerprint_period": "string",
        "vendor": "string",
        "group_by": "string",
        "memory_overcommit": "number",
        "unified_memory_reserve": "string",
        "publish_load": "bool",
        "publish_load_interval": "string",
        "sharing": "string",
        "visible_devices_envs": "list(string)",
        "device_nodes": "string",
        "memory_isolation": "string",
        "cdi_spec_dirs": "list(string)",
        "framework_hints": "list(string)",
        "framework_headroom": "string",
        "metrics_address": "string",
        "simulate": "list(string)",
        "log_level": "string",
    }


def test_the_schema_has_the_blocks_with_their_options() -> None:
    """Nomad is told of the options inside a block, each by its name and HCL type."""
    assert [entry for entry in schema() if isinstance(entry, Block)] == [
        Block(
            "gpu",
            (
                Attr("vgpus", "number"),
                Attr("vgpu_memory", "string"),
                Attr("memory_overcommit", "number"),
                Attr("sharing", "string"),
                Attr("group_by", "string"),
                Attr("ignored", "bool"),
                Attr("name", "string"),
                Attr("mps_priority", "string"),
            ),
            label="selector",
        ),
        Block(
            "mps",
            (
                Attr("root", "string"),
                Attr("memory_limit", "bool"),
                Attr("compute_limit", "bool"),
                Attr("max_vgpus_per_task", "number"),
                Attr("mount", "bool"),
                Attr("exclusive_process", "bool"),
                Attr("multi_user", "bool"),
                Attr("priority", "string"),
            ),
        ),
        Block(
            "memory_guard",
            (
                Attr("action", "string"),
                Attr("grace", "string"),
                Attr("tolerance_percent", "number"),
            ),
        ),
        Block(
            "health",
            (
                Attr("fatal_xids", "list(number)"),
                Attr("ignored_xids", "list(number)"),
                Attr("recovery_period", "string"),
                Attr("end_tasks", "bool"),
            ),
        ),
    ]


def test_no_option_is_declared_twice() -> None:
    """Each option stands in the schema once."""
    names = [attr.name for attr in schema()]
    assert len(names) == len(set(names))
