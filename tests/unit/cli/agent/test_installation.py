# SPDX-License-Identifier: MPL-2.0
"""What install has to do, and when it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nomad_nvidia_vgpu.cli.agent.config import AgentConfig, PluginBlock
from nomad_nvidia_vgpu.cli.agent.installation import Source, as_written, planned
from nomad_nvidia_vgpu.cli.agent.plugin_block import block_text
from nomad_nvidia_vgpu.cli.agent.plugin_dir import Kind, PluginDir, Program
from nomad_nvidia_vgpu.errors import ConfigError

FILE = Path("/etc/nomad.d/client.hcl")
GOOD = PluginDir("/p", exists=True)
SINGLE = Source(Path("/root/nvidia-vgpu-1"), single_file=True)
FOUR = {"vgpus": "4"}
OURS = PluginBlock("nvidia-vgpu", FILE, has_config=True, options={"vgpus": 8})


def agent(folder: Path | None = None, *blocks: PluginBlock, **given: Any) -> AgentConfig:
    """A configuration with these plugin blocks, in a folder or in one file."""
    usual = {"plugin_dir": "/p", "data_dir": None, "files": (FILE,), "client_enabled": True}
    values: dict[str, Any] = {**usual, **given}
    return AgentConfig(given=folder or FILE, blocks=blocks, **values)


def refused(*arguments: Any) -> tuple[str, ...]:
    """The reasons not to install."""
    with pytest.raises(ConfigError) as caught:
        planned(*arguments)
    return caught.value.problems


def test_a_configured_node_needs_the_entry_alone() -> None:
    """The single file is copied, and the block that is there is left as it is."""
    todo = planned(agent(None, OURS), GOOD, SINGLE, {})
    assert (todo.entry, todo.link, todo.block) == (Path("/p/nvidia-vgpu"), False, None)
    assert not todo.there_already


def test_a_program_in_a_virtual_environment_is_linked_to() -> None:
    """It is nothing without the rest of the environment."""
    source = Source(Path("/opt/nvidia-vgpu/bin/nvidia-vgpu"), single_file=False)
    assert planned(agent(None, OURS), GOOD, source, {}).link


def test_what_runs_from_its_place_is_there_already() -> None:
    """It is not copied onto itself."""
    source = Source(Path("/p/nvidia-vgpu"), single_file=True)
    assert planned(agent(None, OURS), GOOD, source, {}).there_already


def test_a_missing_block_goes_into_a_file_of_its_own(tmp_path: Path) -> None:
    """No file of the operator's is touched."""
    todo = planned(agent(tmp_path), GOOD, SINGLE, FOUR)
    assert todo.block_file == tmp_path / "nvidia-vgpu.hcl"
    assert todo.block == block_text(FOUR)


def test_programs_and_configuration_have_folders_of_their_own(tmp_path: Path) -> None:
    """What is made ready for one is swept away for the other."""
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (tmp_path, tmp_path / "link"):
        config = agent(tmp_path, plugin_dir=str(path))
        (said,) = refused(config, PluginDir(str(path), exists=True), SINGLE, FOUR)
        assert said.startswith(f"plugin_dir {path} is the folder of the agent's configuration")
    config = agent(tmp_path, OURS, plugin_dir=str(tmp_path))
    planned(config, PluginDir(str(tmp_path), exists=True), SINGLE, {})


def test_where_one_file_is_all_the_block_is_for_a_person_to_add() -> None:
    """A file beside it would not be read."""
    todo = planned(agent(None), GOOD, SINGLE, FOUR)
    assert (todo.block_file, todo.block) == (None, block_text(FOUR))


def test_all_reasons_come_at_once(tmp_path: Path) -> None:
    """Of the folder, of the block, and of the program."""
    wrong = PluginBlock("nvidia-vgpu", FILE, has_config=True, options={"vgpus": 0, "vgpu": 1})
    source = Source(Path("/x"), single_file=False, problem="the program is nothing")
    said = refused(agent(tmp_path, wrong), PluginDir("/p", exists=False), source, {})
    assert len(said) == 4
    assert "is not there" in said[0]
    assert "client.hcl: " in said[1]
    assert "client.hcl: vgpus must be a whole number from 1 to 256, got 0" in said[2]
    assert said[3] == "the program is nothing"


@pytest.mark.parametrize("label", ["nvidia_vgpu", "Nvidia-VGPU", "nomad-nvidia-vgpu-plugin"])
def test_a_label_that_is_not_the_files_name_is_refused(label: str, tmp_path: Path) -> None:
    """Nomad 1.10 would not start the file, and 1.9 start it without its config."""
    block = PluginBlock(label, FILE, has_config=True, options={"vgpus": 8})
    (said,) = refused(agent(tmp_path, block), GOOD, SINGLE, {"vgpus": "8"})
    assert f'plugin "{label}" block' in said
    assert said.endswith('write "nvidia-vgpu"')


def test_other_plugins_are_none_of_our_business(tmp_path: Path) -> None:
    """A block of another name says nothing about us."""
    block = PluginBlock("raw_exec", FILE, has_config=True, options={})
    assert planned(agent(tmp_path, block), GOOD, SINGLE, {"vgpus": "8"}).block


@pytest.mark.parametrize(
    ("given", "wanted"),
    [({}, "vgpus = …"), ({"vgpus": "3", "sharing": "mps"}, 'vgpus = 3, sharing = "mps"')],
)
@pytest.mark.parametrize("what", ["has no config block", "sets no option"])
def test_a_block_without_options_is_refused(what: str, given: dict[str, str], wanted: str) -> None:
    """Nothing would be offered; what flags ask for is for a person to write."""
    has_config = what == "sets no option"
    bare = PluginBlock("nvidia-vgpu", FILE, has_config=has_config, options={})
    (said,) = refused(agent(None, bare), GOOD, SINGLE, given)
    assert said == (
        f"{FILE}: the plugin block {what}, so nothing is offered, and it stays as it is: write"
        f" {wanted} into its config block"
    )


def test_a_block_that_is_off_is_a_good_one() -> None:
    """Somebody wants nothing to be offered."""
    off = PluginBlock("nvidia-vgpu", FILE, has_config=True, options={"enabled": False})
    assert planned(agent(None, off), GOOD, SINGLE, {}).block is None


def test_options_outside_of_the_config_block_are_refused() -> None:
    """What is in the block is named, and where it belongs."""
    stray = PluginBlock("nvidia-vgpu", FILE, has_config=False, options={}, outside=("vgpus",))
    (said,) = refused(agent(None, stray), GOOD, SINGLE, {})
    assert said.startswith(f"{FILE} line 1: vgpus stands outside of the config block: move it")


def test_what_has_no_effect_is_noted() -> None:
    """A block that a later one replaces, and args."""
    later = OURS._replace(file=Path("/etc/nomad.d/z.hcl"), has_args=True)
    first, second = planned(agent(None, OURS, later), GOOD, SINGLE, {}).undone
    assert f"is in {FILE} line 1 and in {later.file} line 1," in first
    assert f"{later.file} has args, which mean nothing" in second


def test_an_agent_that_is_no_client_is_refused() -> None:
    """It starts no device plugin."""
    (said,) = refused(agent(None, OURS, client_enabled=False), GOOD, SINGLE, {})
    assert said.startswith(f"{FILE} says client {{ enabled = false }}, and plugins run on clients")


def test_an_agent_of_which_no_file_says_that_it_is_a_client_is_noted() -> None:
    """The command line of the agent may say it."""
    (said,) = planned(agent(None, OURS, client_enabled=None), GOOD, SINGLE, {}).notes
    assert said.startswith(f"still to do: write client {{ enabled = true }} in {FILE}")


OFFICIAL = PluginBlock("nomad-device-nvidia", FILE, has_config=True, options={})
WITH_OFFICIAL = PluginDir("/p", True, programs=(Program("nomad-device-nvidia", Kind.OTHER),))


@pytest.mark.parametrize(
    ("blocks", "found", "said"),
    [
        ((OFFICIAL,), GOOD, f'plugin "nomad-device-nvidia" in {FILE} would offer whole GPUs'),
        ((), WITH_OFFICIAL, "/p/nomad-device-nvidia would offer whole GPUs"),
        (
            (OFFICIAL,),
            WITH_OFFICIAL,
            f'nvidia and plugin "nomad-device-nvidia" in {FILE} would',
        ),
    ],
)
def test_another_plugin_for_the_same_gpus_is_noted(
    blocks: tuple[PluginBlock, ...], found: PluginDir, said: str
) -> None:
    """Nomad knows ids, not cards, and would place tasks of both on one."""
    (note,) = planned(agent(None, OURS, *blocks), found, SINGLE, {}).undone
    assert said in note
    assert "take it out" in note or "take them out" in note


def test_another_plugin_that_is_off_is_not_noted() -> None:
    """It offers nothing, on a node that is halfway from one to the other."""
    off = OFFICIAL._replace(options={"enabled": False})
    assert planned(agent(None, OURS, off), WITH_OFFICIAL, SINGLE, {}).undone == ()


def test_another_plugin_that_leaves_gpus_alone_is_not_noted() -> None:
    """That both may run so is in the docs; whether it is the right ones doctor can tell."""
    apart = OFFICIAL._replace(options={"ignored_gpu_ids": ["GPU-a"]})
    assert planned(agent(None, OURS, apart), WITH_OFFICIAL, SINGLE, {}).undone == ()


def test_vgpus_must_be_said_and_be_right(tmp_path: Path) -> None:
    """There is no number that fits every node."""
    assert refused(agent(tmp_path), GOOD, SINGLE, {}) == (
        "it is not set how GPUs are divided: say --vgpus or --vgpu-memory",
    )
    (said,) = refused(agent(tmp_path), GOOD, SINGLE, {"vgpus": "300"})
    assert 'vgpus must be a whole number from 1 to 256, got "300"' in said


def test_an_existing_block_is_not_changed_by_flags() -> None:
    """What it says already is fine; what differs is said, for a person to write."""
    assert planned(agent(None, OURS), GOOD, SINGLE, {"vgpus": "8"}).undone == ()
    given = {"vgpus": "9", "mps": {"root": "/x"}, "gpu": {"*L4*": {"vgpus": "2"}}}
    todo = planned(agent(None, OURS), GOOD, SINGLE, given)
    assert todo.block is None
    stays = f"{FILE} has a plugin block, which stays:"
    assert todo.undone == (
        f"{stays} vgpus is 8 in it, and 9 was asked for: edit that file",
        f'{stays} gpu "*L4*".vgpus = 2 was asked for, and is not in it: edit that file',
        f'{stays} mps.root = "/x" was asked for, and is not in it: edit that file',
    )


def test_the_same_in_other_words_is_nothing_to_write() -> None:
    """A script that installs again must not fail over a spelling, nor over a default."""
    block = OURS._replace(options={"vgpu_memory": "10GiB", "fingerprint_period": "60s"})
    given = {"vgpu_memory": "10240MiB", "fingerprint_period": "1m", "enabled": "true"}
    assert planned(agent(None, block), GOOD, SINGLE, given).undone == ()
    given["fingerprint_period"] = "2m"
    assert planned(agent(None, block), GOOD, SINGLE, given).undone != ()


def test_what_the_block_says_in_other_words_is_not_held_against_it() -> None:
    """Each flag is judged by itself: beside one that differs too."""
    block = OURS._replace(options={"vgpus": 8, "fingerprint_period": "60s"})
    given = {"enabled": "true", "vgpus": "9", "fingerprint_period": "1m"}
    (said,) = planned(agent(None, block), GOOD, SINGLE, given).undone
    assert "vgpus is 8 in it, and 9 was asked for" in said


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({"vgpus": 8, "health": {"fatal_xids": [13]}}, {"health": {"ignored_xids": ["13"]}}),
        ({"enabled": False}, {"sharing": "mps"}),
    ],
)
def test_a_flag_that_contradicts_the_block_is_said_too(
    options: dict[str, Any], given: dict[str, Any]
) -> None:
    """The block stays, and is in order: nothing hinders the program from being put in place."""
    (said,) = planned(agent(None, OURS._replace(options=options)), GOOD, SINGLE, given).undone
    assert "was asked for, and is not in it: edit that file" in said


def test_the_other_size_of_an_existing_block_is_named() -> None:
    """Who wrote one beside it would have two, which the plugin refuses."""
    (said,) = planned(agent(None, OURS), GOOD, SINGLE, {"vgpu_memory": "10GiB"}).undone
    assert 'vgpus is 8 in it, and vgpu_memory = "10GiB" was asked for: edit that file' in said


@pytest.mark.parametrize("blocks", [(), (OURS,)], ids=["no block", "a block"])
def test_flags_are_refused_as_the_plugin_would(blocks: tuple[PluginBlock, ...]) -> None:
    """In its own words, whether they would be written or not."""
    said = refused(agent(None, *blocks), GOOD, SINGLE, {"vgpus": "4", "sharing": "mig"})
    assert said == ('sharing must be "time-slicing" or "mps", got "mig"',)


def test_a_file_that_is_in_the_way_is_refused(tmp_path: Path) -> None:
    """One of ours by name, without our block in it."""
    (tmp_path / "nvidia-vgpu.hcl").symlink_to("nowhere")
    (said,) = refused(agent(tmp_path), GOOD, SINGLE, {"vgpus": "8"})
    assert 'nvidia-vgpu.hcl has no plugin "nvidia-vgpu" block' in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"plugin_dir": "plugins"}, "plugin_dir must be an absolute path, got 'plugins'"),
        ({"plugin_dir": None}, f"neither plugin_dir nor data_dir is set ({FILE})"),
        ({"plugin_dir": None, "files": ()}, f"is set (no file in {FILE})"),
    ],
)
def test_a_folder_that_cannot_be_found_is_refused(given: dict[str, Any], said: str) -> None:
    """Nomad refuses a relative one too."""
    (problem,) = refused(agent(None, OURS, **given), None, SINGLE, {})
    assert said in problem


def test_the_original_in_our_place_is_replaced() -> None:
    """Same name, same ids: that is how one goes over."""
    found = PluginDir("/p", exists=True, programs=(Program("nvidia-vgpu", Kind.ORIGINAL),))
    assert planned(agent(None, OURS), found, SINGLE, {}).replaced is Kind.ORIGINAL


def test_only_what_install_wrote_may_be_removed() -> None:
    """A file that somebody has changed since is his."""
    assert as_written(block_text({"vgpus": 8}), OURS)
    assert not as_written(block_text({"vgpus": 8}) + "# mine\n", OURS)
    wrong = PluginBlock("nvidia-vgpu", FILE, has_config=True, options={"vgpus": "x", "mps": 1})
    assert not as_written("", wrong)
    assert not as_written("", PluginBlock("nvidia-vgpu", FILE, has_config=False, options={}))
