# SPDX-License-Identifier: MPL-2.0
"""A config from the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from nomad_nvidia_vgpu.cli import gpus, launch, plan, top
from nomad_nvidia_vgpu.cli.config_options import Given, config_options, given_config
from nomad_nvidia_vgpu.cli.main import cli, run
from nomad_nvidia_vgpu.config.blocks import GpuBlock, GpuConfig, HealthConfig
from nomad_nvidia_vgpu.config.declaring import LABELLED
from nomad_nvidia_vgpu.config.decode import decode
from nomad_nvidia_vgpu.config.options import PluginConfig, all_options
from nomad_nvidia_vgpu.errors import ConfigError


@click.command()
@config_options
def show(*, paths: Sequence[Path], **flags: Any) -> Given:
    """Gives what was given."""
    return given_config(paths, flags)


def given_by(*arguments: str) -> dict[str, object]:
    """Gives the config of a command line."""
    return whole(*arguments).options


def whole(*arguments: str) -> Given:
    """Gives it with the file that it is from."""
    result: Given = show.main(list(arguments), standalone_mode=False)
    return result


def test_nothing_given_is_an_empty_config() -> None:
    """Flags that were not given are not in the config."""
    assert given_by() == {}


def test_every_option_has_a_flag() -> None:
    """Each option of the config block can be given as a flag of its name."""
    flags = {param.opts[0] for param in show.params}
    assert flags == {
        "--config",
        *(
            f"--{path.replace(LABELLED, '').replace('_', '-').replace('.', '-')}"
            for path, _ in all_options()
        ),
    }


def test_flags_reach_into_labelled_blocks(tmp_path: Path) -> None:
    """A flag of an option in blocks with labels says which block it is for, and adds to a file's."""
    path = tmp_path / "agent.hcl"
    path.write_text('gpu "*L4*" {\n  vgpus = 2\n  name = "small"\n}\n')
    given = given_by(
        "--config", str(path), "--gpu-vgpus", "*L4*=4", "--gpu-vgpus", "0000:07:00.0=8",
        "--gpu-ignored", "GPU-a=true",
    )  # fmt: skip
    assert given == {
        "gpu": {
            "*L4*": {"vgpus": "4", "name": "small"},
            "0000:07:00.0": {"vgpus": "8"},
            "GPU-a": {"ignored": "true"},
        }
    }
    assert decode(given).gpu[1] == GpuBlock("0000:07:00.0", GpuConfig(vgpus=8))


def test_a_flag_without_a_selector_is_wrong_usage() -> None:
    """`--gpu-vgpus 4` does not say of which GPUs."""
    with pytest.raises(click.UsageError, match=r'--gpu-vgpus must be SELECTOR=VALUE, got "4"'):
        given_by("--gpu-vgpus", "4")


def test_flags_can_be_decoded() -> None:
    """What flags give is a config, as if it had been written into a file."""
    given = given_by(
        "--vgpus", "16", "--enabled", "true", "--fingerprint-period", "30s",
        "--ignored-gpu-ids", "GPU-a", "--ignored-gpu-ids", "GPU-b", "--group-by", "gpu",
    )  # fmt: skip
    assert decode(given) == PluginConfig(
        vgpus=16, ignored_gpu_ids=("GPU-a", "GPU-b"), fingerprint_period_s=30.0, group_by="gpu"
    )


def test_flags_reach_into_a_block() -> None:
    """A flag of an option inside a block gives the block that option."""
    given = given_by(
        "--vgpus", "1", "--health-fatal-xids", "13", "--health-fatal-xids", "31",
        "--health-recovery-period", "5s", "--health-end-tasks", "true",
    )  # fmt: skip
    health = HealthConfig(fatal_xids=(13, 31), recovery_period_s=5.0, end_tasks=True)
    assert decode(given) == PluginConfig(vgpus=1, health=health)


def test_a_flag_wins_over_its_option_in_the_files_block(tmp_path: Path) -> None:
    """A flag replaces its own option of a block and leaves the block's others."""
    path = tmp_path / "agent.hcl"
    path.write_text('health {\n  recovery_period = "1s"\n  end_tasks = true\n}\n')
    given = given_by("--config", str(path), "--health-recovery-period", "2s")
    assert given == {"health": {"recovery_period": "2s", "end_tasks": True}}


def test_a_false_flag_is_given() -> None:
    """A flag that is false is not taken for one that was not given."""
    assert decode(given_by("--enabled", "false")) == PluginConfig(enabled=False)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    """What both give is taken from the flags, the rest from the file."""
    path = tmp_path / "agent.hcl"
    path.write_text('vgpus = 4\nvendor = "nvidia"\nsimulate = ["l4"]\n')
    given = given_by("--config", str(path), "--vgpus", "8", "--simulate", "t4")
    assert given == {"vgpus": "8", "vendor": "nvidia", "simulate": ["t4"]}


@pytest.mark.parametrize(
    ("there", "flag", "left"),
    [
        ('vgpu_memory = "10GiB"', ("--vgpus", "4"), {"vgpus": "4"}),
        ("vgpus = 4", ("--vgpu-memory", "10GiB"), {"vgpu_memory": "10GiB"}),
        (
            'gpu "*L4*" {\n vgpu_memory = "8GiB"\n name = "x"\n}\nvgpus = 2\n',
            ("--gpu-vgpus", "*L4*=3"),
            {"gpu": {"*L4*": {"vgpus": "3", "name": "x"}}, "vgpus": 2},
        ),
        (
            'gpu "*L4*" {\n vgpus = 4\n}\ngpu "*T4*" {\n vgpus = 4\n}\n',
            ("--gpu-vgpu-memory", "*L4*=8GiB"),
            {"gpu": {"*L4*": {"vgpu_memory": "8GiB"}, "*T4*": {"vgpus": 4}}},
        ),
    ],
)
def test_a_size_takes_the_place_of_the_other(
    tmp_path: Path, there: str, flag: tuple[str, str], left: dict[str, object]
) -> None:
    """A flag wins over the file's size in the same scope, whichever of the two that is."""
    path = tmp_path / "agent.hcl"
    path.write_text(there)
    given = given_by("--config", str(path), *flag)
    assert given == left
    decode(given)


@pytest.mark.parametrize("scope", ["", "gpu-"])
def test_both_sizes_as_flags_contradict(scope: str) -> None:
    """Nobody knows which of them was meant."""
    value = "*={}" if scope else "{}"
    given = given_by(
        f"--{scope}vgpus", value.format("4"), f"--{scope}vgpu-memory", value.format("10GiB")
    )
    with pytest.raises(ConfigError, match=r"vgpus and .*vgpu_memory are both set"):
        decode(given)


def test_a_folder_is_read_as_the_agent_would(tmp_path: Path) -> None:
    """Of two blocks the later one counts whole, and flags win over it."""
    (tmp_path / "a.hcl").write_text('plugin "nvidia-vgpu" {\n config {\n sharing = "mps"\n }\n}\n')
    (tmp_path / "b.hcl").write_text(
        'plugin "nvidia-vgpu" {\n config {\n vgpus = 4\n vendor = "x"\n }\n}\n'
    )
    (tmp_path / "c.hcl").write_text('datacenter = "here"\n')
    (tmp_path / "notes.txt").write_text("{")
    given = given_by("--config", str(tmp_path), "--vgpus", "8")
    assert given == {"vgpus": "8", "vendor": "x"}


def test_a_folder_without_our_block_is_refused(tmp_path: Path) -> None:
    """As a file without it is."""
    (tmp_path / "a.hcl").write_text('datacenter = "here"\n')
    with pytest.raises(ConfigError, match=r'^no file in .* has a plugin "nvidia-vgpu" block: add'):
        given_by("--config", str(tmp_path))


def test_a_folder_with_another_label_is_told_of_that(tmp_path: Path) -> None:
    """As a file is: a second block beside it would be wrong advice."""
    (tmp_path / "a.hcl").write_text('plugin "vgpu" {\n config {\n vgpus = 4\n }\n}\n')
    with pytest.raises(
        ConfigError, match=r'a\.hcl line 1 has a plugin "vgpu" block, but the label must be'
    ):
        given_by("--config", str(tmp_path))


def test_several_are_merged_as_the_agent_would(tmp_path: Path) -> None:
    """Files and folders in the order given, by either name of the option; the last block counts."""
    block = 'plugin "nvidia-vgpu" {{\n config {{\n vgpus = {}\n }}\n}}\n'
    folder, file, other = tmp_path / "d", tmp_path / "one.hcl", tmp_path / "other.hcl"
    folder.mkdir()
    (folder / "a.hcl").write_text(block.format(2))
    file.write_text(block.format(4))
    other.write_text('datacenter = "here"\n')
    named = ("--config", str(folder), "--agent-config", str(file), "--config", str(other))
    assert whole(*named) == Given({"vgpus": 4}, file, {"vgpus": 4})
    assert given_by("--config", str(file), "--config", str(folder)) == {"vgpus": 2}
    with pytest.raises(ConfigError, match=rf"^no file in {other}, {other} has a plugin"):
        given_by("--config", str(other), "--config", str(other))


@pytest.mark.parametrize("named", ["agent.hcl", "."])
def test_what_is_wrong_in_a_file_is_told_with_the_file(tmp_path: Path, named: str) -> None:
    """And what is wrong with a flag is told without it."""
    file = tmp_path / "agent.hcl"
    options = 'fingerprint_periodd = "1s"\n vgpus = 300\n'
    file.write_text(f'plugin "nvidia-vgpu" {{\n config {{\n {options} }}\n}}\n')
    given = whole("--config", str(tmp_path / named), "--vendor", "a b")
    with pytest.raises(ConfigError) as refused:
        given.checked()
    period, vgpus, vendor = refused.value.problems
    assert period.startswith(f"{file} line 3: fingerprint_periodd is not an option")
    assert vgpus.startswith(f"{file} line 4: vgpus must be")
    assert vendor.startswith("vendor must be")


def test_what_a_flag_puts_right_is_not_told(tmp_path: Path) -> None:
    """It is the whole that counts: a size that a flag gives, or a wrong one that it replaces."""
    file = tmp_path / "agent.hcl"
    for text in ('sharing = "mps"\n', "vgpus = 300\n"):
        file.write_text(text)
        assert whole("--config", str(file), "--vgpus", "4").checked().vgpus == 4
    file.write_text('sharing = "mps"\n')
    assert whole("--config", str(file)).checked(any_size=True).sharing == "mps"
    with pytest.raises(ConfigError, match=rf"^{file}: vgpus and vgpu_memory are both missing"):
        whole("--config", str(file)).checked()


@pytest.mark.parametrize("command", [gpus.gpus, launch.launch, plan.plan, top.top])
def test_help_shows_the_options_of_the_command_alone(command: click.Command) -> None:
    """Those of the plugin, in the order of the docs and with their defaults, have a help apart."""
    own = CliRunner().invoke(cli, [str(command.name), "--help"]).output
    plugin = CliRunner().invoke(cli, [str(command.name), "--help-config"]).output
    flags = {param.opts[0] for param in command.params}
    plugins = re.findall(r"^  (--\S+)", plugin, re.MULTILINE)
    assert plugins == [param.opts[0] for param in show.params if param.opts[0] != "--config"]
    own_flags = set(re.findall(r"^  (--[\w-]+)", own.split("Options:\n")[1], re.MULTILINE))
    assert own_flags == flags - set(plugins)
    assert "--json" in own_flags
    assert '[default: "time-slicing"]' in " ".join(plugin.split())


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    """A file that is not there is a wrong use of the command."""
    with pytest.raises(click.UsageError, match=r"does not exist"):
        given_by("--config", str(tmp_path / "nothing.hcl"))


def test_a_wrong_flag_has_nothing_to_do_with_the_agents_files(
    agent_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other files would not fix it, though these too are wrong without the flags."""
    agent_files.mkdir()
    block = 'plugin "nvidia-vgpu" {\n config {\n sharing = "mps"\n }\n}\n'
    (agent_files / "gpus.hcl").write_text(block)
    assert run(["plan", "--vgpus", "4", "--simulate", "t4", "--vendor", "a b"]) == 1
    said = capsys.readouterr().err
    assert "vendor must be" in said
    assert "/dev/null" not in said
