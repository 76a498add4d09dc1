# SPDX-License-Identifier: MPL-2.0
"""An agent's configuration, as far as plugins go."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.agent.config import read_agent_config
from nomad_nvidia_vgpu.errors import ConfigError

OURS = 'plugin "nvidia-vgpu" {\n  config {\n    vgpus = 4\n  }\n}\n'


def written(folder: Path, **files: str) -> Path:
    """The folder, with these files; `_` stands for the dot in their names."""
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_files_of_a_folder_are_merged_in_order(tmp_path: Path) -> None:
    """The last that sets something wins, JSON or HCL; what is empty sets nothing."""
    written(
        tmp_path,
        a_hcl='plugin_dir = "/first"\ndata_dir = "/data"',
        b_json='{"plugin_dir": "/second"}',
        c_hcl='plugin_dir = ""',
        d_txt='plugin_dir = "/never"',
    )
    agent = read_agent_config([tmp_path])
    assert (agent.plugins, agent.data_dir) == ("/second", "/data")
    assert [file.name for file in agent.files] == ["a.hcl", "b.json", "c.hcl"]
    assert agent.folder == tmp_path


def test_the_default_is_below_the_data(tmp_path: Path) -> None:
    """As Nomad has it; without either there is nothing to go by."""
    assert read_agent_config([written(tmp_path, a_hcl='data_dir = "/d/"')]).plugins == "/d/plugins"
    assert read_agent_config([written(tmp_path, a_hcl="")]).plugins is None


@pytest.mark.parametrize(
    ("files", "client"),
    [
        ({"a_hcl": 'client {\n node_class = "gpu"\n}'}, None),
        ({"a_hcl": "client {\n enabled = false\n}"}, False),
        ({"a_hcl": "client {\n enabled = true\n}"}, True),
        (
            {"a_json": '{"client": {"enabled": "1"}}', "b_hcl": "client {\n enabled = false\n}"},
            True,
        ),
        (
            {"a_hcl": "client {\n enabled = false\n}", "b_json": '{"client": [{"enabled": true}]}'},
            True,
        ),
    ],
)
def test_a_client_is_one_by_any_of_the_files(
    tmp_path: Path, files: dict[str, str], *, client: bool | None
) -> None:
    """As Nomad merges them: no later file takes it back."""
    assert read_agent_config([written(tmp_path, **files)]).client_enabled is client


def test_the_figures_of_tasks_are_asked_for_in_any_of_the_files(tmp_path: Path) -> None:
    """By default they are not."""
    written(tmp_path, a_hcl="telemetry {\n publish_node_metrics = true\n}")
    assert not read_agent_config([tmp_path]).allocation_metrics
    written(tmp_path, b_json='{"telemetry": {"publish_allocation_metrics": true}}', c_hcl="")
    assert read_agent_config([tmp_path]).allocation_metrics


def test_our_block_is_the_last_of_its_name(tmp_path: Path) -> None:
    """Nomad takes a later block whole in place of an earlier one."""
    other = 'plugin "nvidia-vgpu" {\n config {\n vgpus = 2\n }\n}\nplugin "raw_exec" {\n  config {}\n}\n'
    agent = read_agent_config([written(tmp_path, a_hcl=OURS, b_hcl=other)])
    assert [block.label for block in agent.blocks] == ["nvidia-vgpu", "nvidia-vgpu", "raw_exec"]
    assert agent.ours is not None
    assert (agent.ours.file.name, agent.ours.options) == ("b.hcl", {"vgpus": 2})


def test_an_empty_block_in_a_later_file_takes_no_place(tmp_path: Path) -> None:
    """Nomad keeps what the earlier file says; in one file the last block counts, empty or not."""
    empty = 'plugin "nvidia-vgpu" {\n}\n'
    agent = read_agent_config([written(tmp_path, a_hcl=OURS, b_hcl=empty)])
    assert agent.ours is not None
    assert agent.ours.file.name == "a.hcl"
    agent = read_agent_config([written(tmp_path, a_hcl=OURS + empty, b_hcl="")])
    assert agent.ours is not None
    assert not agent.ours.has_config


def test_a_block_that_has_no_effect_is_named_once(tmp_path: Path) -> None:
    """With the file and the line to edit."""
    written(tmp_path, a_hcl=OURS + OURS, b_hcl=OURS)
    first, last = tmp_path / "a.hcl", tmp_path / "b.hcl"
    second = OURS.count("\n") + 1
    last_of_all = f"{last} line 1"
    assert read_agent_config([tmp_path]).without_effect == [
        f'plugin "nvidia-vgpu" is in {place} and in {last_of_all}, and Nomad uses only the last:'
        f" remove the block in {place}"
        for place in (f"{first} line 1", f"{first} line {second}")
    ]
    (said,) = read_agent_config([first]).without_effect
    assert said.endswith(f"uses only the last: remove the block in {first} line 1")


def test_the_options_of_a_block_are_read(tmp_path: Path) -> None:
    """They are checked before the agent is restarted."""
    agent = read_agent_config([written(tmp_path, a_hcl=OURS)])
    assert agent.ours is not None
    assert agent.ours.options == {"vgpus": 4}


def test_a_single_file_has_no_folder_to_write_to(tmp_path: Path) -> None:
    """An agent that reads one file would never see another beside it."""
    written(tmp_path, a_hcl=OURS)
    agent = read_agent_config([tmp_path / "a.hcl"])
    assert agent.folder is None
    assert agent.ours is not None


def test_several_are_read_in_the_order_given(tmp_path: Path) -> None:
    """As the agent's -config options."""
    written(tmp_path, a_hcl='plugin_dir = "/a"', b_hcl='plugin_dir = "/b"')
    assert read_agent_config([tmp_path / "b.hcl", tmp_path / "a.hcl"]).plugins == "/a"


@pytest.mark.parametrize("call", [(Path, "open"), (Path, "iterdir")])
def test_what_only_root_reads_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: tuple[type, str]
) -> None:
    """A file, and a folder, that are closed."""
    written(tmp_path, a_hcl=OURS)

    def closed(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(*call, closed)
    with pytest.raises(ConfigError, match=r"Permission denied: run this command as root$"):
        read_agent_config([tmp_path])


def test_every_wrong_file_is_named(tmp_path: Path) -> None:
    """What does not parse or is not there, all at once."""
    twice = 'config {\n gpu "*" {\n vgpus = 1\n }\n gpu "*" {\n vgpus = 2\n }\n }'
    ours = f'plugin "nvidia-vgpu" {{\n {twice}\n}}'
    written(tmp_path, a_hcl="x = = 1", b_json="{4}", c_hcl=ours)
    with pytest.raises(ConfigError) as caught:
        read_agent_config([tmp_path, tmp_path / "absent"])
    first, second, third, fourth = caught.value.problems
    assert "absent cannot be read: No such file or directory: pass --config" in first
    assert "a.hcl is not valid HCL" in second
    assert "b.json is not valid JSON" in third
    assert fourth == f'{tmp_path}/c.hcl line 1: gpu "*" is there twice: make one block of them'
