# SPDX-License-Identifier: MPL-2.0
"""What Nomad makes of HCL 1. `tests/e2e/test_agent_files.py` compares with a real Nomad."""

import pytest

from nomad_nvidia_vgpu.cli.agent.hcl1 import Hcl1Error, parse
from nomad_nvidia_vgpu.cli.agent.hcl1_values import (
    is_true,
    literals,
    merged,
    plugins,
    settings_of,
)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ('plugin "a" {}\nPlugin b {}', ["a", "b"]),
        ('plugin { a {} }\nplugin "b" {}', ["b", "a"]),
        ('{"plugin": {"a": {"args": []}}, "plugin": [{"b": {"args": []}}]}', ["a", "b"]),
        ('{"plugin": {"a": {"config": {"k": 1}}}}', ["a"]),
    ],
)
def test_plugin_blocks_are_found(text: str, labels: list[str]) -> None:
    """In HCL and JSON, with the label before the braces or within."""
    found = list(plugins(parse(text)))
    assert [plugin.label for plugin in found] == labels
    assert [plugin.unexpected for plugin in found] == [[]] * len(labels)


@pytest.mark.parametrize("text", ["plugin = 5", "plugin { a = 1 }", '{"plugin": {"a": 1}}'])
def test_a_plugin_that_is_no_block_is_an_error(text: str) -> None:
    """A sentence with a line, and no other exception."""
    with pytest.raises(Hcl1Error, match="line 1: a value stands where a block must"):
        list(plugins(parse(text)))


def test_what_does_not_belong_in_a_plugin_block_is_named() -> None:
    """Nomad ends with "unexpected keys"; so it does for JSON that holds blocks alone."""
    (plugin,) = plugins(parse('plugin "a" { b "c" {}, vgpus = 4, config {} }'))
    assert (plugin.unexpected, plugin.is_swallowed) == (["b", "c", "vgpus"], False)
    (plugin,) = plugins(parse('{"plugin": {"a": {"config": {"gpu": {"*": {"vgpus": 2}}}}}}'))
    assert plugin.is_swallowed
    assert {"gpu", "*"} <= set(plugin.unexpected)


def test_a_config_is_a_map_of_plain_values() -> None:
    """A block is a list of maps, in a list it is a map; what is there twice is added or replaced."""
    text = """
        config { a = 1, l = [1], m { x = 1 }, gpu "u" { v = 1 }, gpu "w" {} }
        config { a = 2, l = [2, { y = 3 }], m { x = 2 } }
    """
    assert merged(parse(text), "config") == {
        "a": 2,
        "l": [1, 2, {"y": 3}],
        "m": [{"x": 1}, {"x": 2}],
        "gpu": [{"u": [{"v": 1}]}, {"w": [{}]}],
    }
    with pytest.raises(Hcl1Error, match="a is there twice, as values of two kinds"):
        merged(parse('config { a = 1, a = "x" }'), "config")
    with pytest.raises(Hcl1Error, match="lacks the label"):
        merged(parse('config { gpu "u" {}, gpu {} }'), "config")


def test_settings_of_several_blocks_count_together() -> None:
    """The last of a name counts; the name in any case, a value quoted or not."""
    parsed = parse('client { enabled = false }\nclient { Enabled = "true", meta { a = 1 } }')
    found = literals(settings_of(parsed, "client"))
    assert found == {"enabled": "true"}
    assert is_true(found["enabled"])
    assert not is_true(None)
