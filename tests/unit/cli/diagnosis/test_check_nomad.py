# SPDX-License-Identifier: MPL-2.0
"""The checks of the Nomad agent."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.check_nomad import (
    agent_config,
    api,
    plugin_files,
    version,
)
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts, read_config
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level
from nomad_nvidia_vgpu.cli.diagnosis.nomad_api import NomadLook
from nomad_nvidia_vgpu.cli.diagnosis.running import Running
from nomad_nvidia_vgpu.errors import Problem
from unit.cli.diagnosis.nodes import (
    NO_NOMAD,
    agent,
    assert_one,
    driver,
    facts,
    levels,
    node,
    offered,
    said,
    unread,
    written,
)
from unit.example_gpus import gpu

PLUGIN = "#!/bin/sh\n# nvidia-vgpu, a Nomad device plugin\n"


# version


def test_a_current_nomad_is_ok(tmp_path: Path) -> None:
    """By its API."""
    assert_one(version, facts(tmp_path, nomad=offered()), Level.OK, "1.11.3")


def test_without_the_api_the_program_tells_its_version(tmp_path: Path) -> None:
    """Whatever else it prints."""

    def output(command: Sequence[str], _path: str | None) -> str:
        assert list(command) == ["/usr/bin/nomad", "version"]
        return "Nomad v1.10.2\nRevision abc\n"

    found = facts(tmp_path, on=node(tmp_path, ["nomad"], output=output))
    assert_one(version, found, Level.OK, "1.10.2")


def test_each_bug_is_a_warning_with_the_version_to_take(tmp_path: Path) -> None:
    """Those of 1.4.1 that concern a device plugin."""
    found = said(version, facts(tmp_path, nomad=offered(version="1.4.1")))
    assert {level for level, _ in found} == {Level.WARNING}
    assert any("a minute later | upgrade to 1.4.3" in text for _, text in found)


def test_a_nomad_without_device_plugins_is_an_error(tmp_path: Path) -> None:
    """Nothing of this can work."""
    assert Level.ERROR in levels(version, facts(tmp_path, nomad=offered(version="0.8.7")))


def test_an_unknown_version_is_a_warning(tmp_path: Path) -> None:
    """No program, one that fails, or one that says something else."""

    def fails(_command: Sequence[str], _path: str | None) -> str:
        raise OSError(0, "no")

    assert_one(version, facts(tmp_path), Level.WARNING, "is not known")
    for output in (fails, lambda _command, _path: "hello"):
        found = facts(tmp_path, on=node(tmp_path, ["nomad"], output=output))
        assert_one(version, found, Level.WARNING, "is not known")


def test_figures_that_nomad_keeps_to_itself_are_told_of(tmp_path: Path) -> None:
    """No fault, so nothing is worse than ok; whoever misses them reads what they take."""
    for number, words in (("1.10.1", []), ("1.10.2", ["publish_allocation_metrics = true"])):
        known = dataclasses.replace(with_config(tmp_path), nomad=offered(version=number))
        found = said(version, known)
        assert {level for level, _ in found} == {Level.OK}
        assert [word for word in words if word not in found[-1][1]] == []
        assert len(found) == 1 + len(words)


def test_mounts_are_a_bug_of_every_version(tmp_path: Path) -> None:
    """No upgrade helps."""
    for options in ('sharing = "mps"\nmps {\n mount = true\n}', 'device_nodes = "cdi"'):
        found = facts(tmp_path, options=f"vgpus = 4\n{options}", nomad=offered())
        assert_one(version, found, Level.WARNING, "volume_mount")


# agent's configuration


def test_a_good_block_is_ok(tmp_path: Path) -> None:
    """With the file that it is in."""
    assert_one(agent_config, facts(tmp_path), Level.OK, str(tmp_path / "nomad.d/agent.hcl"))


def test_files_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    """With the option that names them."""
    problems = read_config([tmp_path / "nowhere"]).problems
    assert_one(agent_config, unread(tmp_path, *problems), Level.ERROR, "nowhere", "| pass --config")
    broken = written(tmp_path / "a.hcl", "plugin {{{")
    problems = read_config([broken]).problems
    assert_one(
        agent_config, unread(tmp_path, *problems), Level.ERROR, "not valid HCL", "| take it out"
    )


def test_a_missing_block_is_an_error(tmp_path: Path) -> None:
    """With the command that writes one."""
    assert_one(
        agent_config, facts(tmp_path, options=None), Level.ERROR, "no plugin", "nvidia-vgpu install"
    )


@pytest.mark.parametrize(
    "block", ['plugin "nomad-nvidia-vgpu-plugin" {}', 'plugin "gpus" {\nconfig {\nvgpus = 2\n}\n}']
)
def test_a_label_that_is_not_the_files_name_is_an_error(tmp_path: Path, block: str) -> None:
    """The block is meant for this plugin, by its name or its options."""
    found = facts(tmp_path, options=None)
    file = written(tmp_path / "nomad.d/agent.hcl", block)
    found = unread(tmp_path)
    found = type(found)(found.node, read_config([file]), found.driver, (), NO_NOMAD)
    assert_one(agent_config, found, Level.ERROR, "label", 'write "nvidia-vgpu"')


def with_config(tmp_path: Path, **files: str) -> Facts:
    """A node whose agent is a client and reads these files of a folder."""
    written(tmp_path / "etc.d/client.hcl", "client {\n enabled = true\n}\n")
    for name, text in files.items():
        written(tmp_path / f"etc.d/{name}.hcl", text)
    known = unread(tmp_path)
    return dataclasses.replace(known, configured=read_config([tmp_path / "etc.d"]))


OURS = 'plugin "nvidia-vgpu" {{\n{} config {{\n  vgpus = 2\n }}\n}}\n'


def test_a_second_block_is_a_warning(tmp_path: Path) -> None:
    """Nomad says nothing of the earlier one, which is the one that people may look at."""
    found = said(agent_config, with_config(tmp_path, a=OURS.format(""), b=OURS.format("")))
    assert [level for level, _ in found] == [Level.WARNING, Level.OK]
    assert f"in {tmp_path}/etc.d/a.hcl line 1 and in {tmp_path}/etc.d/b.hcl line 1" in found[0][1]
    assert found[0][1].endswith(f"| remove the block in {tmp_path}/etc.d/a.hcl line 1")


def test_args_are_a_warning(tmp_path: Path) -> None:
    """HashiCorp's plugins take some."""
    found = said(agent_config, with_config(tmp_path, a=OURS.format(' args = ["-v"]\n')))
    assert [level for level, _ in found] == [Level.WARNING, Level.OK]
    assert "has args, which mean nothing | take them out" in found[0][1]


def test_options_outside_of_the_config_block_are_an_error(tmp_path: Path) -> None:
    """They are set, and in the wrong place: that no option is set would send people astray."""
    known = with_config(tmp_path, a='plugin "nvidia-vgpu" {\n vgpus = 2\n}\n')
    assert_one(agent_config, known, Level.ERROR, "vgpus stands outside", "| move it into config")


NO_CLIENT = {"client": "client {\n enabled = false\n}\n", "a": OURS.format("")}


@pytest.mark.parametrize(
    "files", [NO_CLIENT, {**NO_CLIENT, "client": "server {\n enabled = true\n}\n"}]
)
def test_an_agent_that_is_no_client_is_an_error(tmp_path: Path, files: dict[str, str]) -> None:
    """It would start with that, and never look at the plugin; all files count, not ours alone."""
    found = said(agent_config, with_config(tmp_path, **files))
    assert [level for level, _ in found] == [Level.ERROR, Level.OK]
    assert f"no client by {tmp_path}/etc.d/a.hcl, {tmp_path}/etc.d/client.hcl" in found[0][1]
    assert "| write client { enabled = true } in" in found[0][1]


@pytest.mark.parametrize(
    ("look", "level"),
    [
        (offered(client=True), Level.OK),
        (offered(), Level.OK),
        (offered(client=False), Level.ERROR),
        (NO_NOMAD, Level.ERROR),
    ],
)
def test_an_agent_that_runs_knows_better_whether_it_is_a_client(
    tmp_path: Path, look: NomadLook, level: Level
) -> None:
    """Made one by its command line; one that does not say so knows its node at least."""
    known = dataclasses.replace(with_config(tmp_path, **NO_CLIENT), nomad=look)
    assert levels(agent_config, known)[0] is level
    flagged = dataclasses.replace(known, running=Running(agent(client=True)))
    assert levels(agent_config, flagged) == [Level.OK]


def test_a_server_without_our_plugin_need_be_no_client(tmp_path: Path) -> None:
    """That it has no block is said, and enough."""
    files = {"client": "server {\n enabled = true\n}\n"}
    assert_one(agent_config, with_config(tmp_path, **files), Level.ERROR, "has no plugin")


def test_other_plugins_blocks_are_not_meant_for_us(tmp_path: Path) -> None:
    """They are counted as no block of ours."""
    file = written(tmp_path / "a.hcl", 'plugin "raw_exec" {}')
    known = unread(tmp_path)
    known = type(known)(known.node, read_config([file]), known.driver, (), NO_NOMAD)
    assert_one(agent_config, known, Level.ERROR, "has no plugin")


def test_each_wrong_option_is_an_error(tmp_path: Path) -> None:
    """The agent would not start."""
    found = said(agent_config, facts(tmp_path, options='vgpus = 0\nvgpu = 4\nvendor = "a b"'))
    assert [level for level, _ in found] == [Level.ERROR] * 3
    assert all("agent.hcl" in text for _, text in found)
    assert all("so the agent does not start | " in text for _, text in found)
    assert any(text.endswith("| did you mean vgpus?") for _, text in found)


def test_a_file_that_only_root_reads_is_not_spoilt(tmp_path: Path) -> None:
    """Whoever looks must become root; the agent starts."""
    problem = Problem(f"{tmp_path}/a.hcl: Permission denied", "run this command as root")
    assert_one(
        agent_config,
        unread(tmp_path, problem),
        Level.ERROR,
        "denied | run this command as root",
    )


def test_a_block_that_offers_nothing_is_said(tmp_path: Path) -> None:
    """Switched off it is a warning, forgotten an error."""
    assert_one(agent_config, facts(tmp_path, options="enabled = false"), Level.WARNING, "enabled")
    assert_one(agent_config, facts(tmp_path, options=""), Level.ERROR, "set vgpus")


# files in plugin_dir


def test_this_plugin_in_its_place_is_ok(tmp_path: Path) -> None:
    """Under the name of the label."""
    written(tmp_path / "plugins/nvidia-vgpu", PLUGIN).chmod(0o755)
    assert_one(plugin_files, facts(tmp_path), Level.OK, f"{tmp_path}/plugins/nvidia-vgpu")


def test_another_name_is_an_error(tmp_path: Path) -> None:
    """Nomad takes the file's name for the label; two errors, for the file is in the way too."""
    written(tmp_path / "plugins/vgpu", PLUGIN).chmod(0o755)
    found = said(plugin_files, facts(tmp_path))
    assert [level for level, _ in found] == [Level.ERROR, Level.ERROR]
    assert "no executable file nvidia-vgpu" in found[1][1]
    assert "there is vgpu" in found[1][1]


def test_a_file_that_is_missing_or_dangling_is_an_error(tmp_path: Path) -> None:
    """And so is a folder that is missing."""
    assert_one(plugin_files, facts(tmp_path), Level.ERROR, "is not there")
    (tmp_path / "plugins").mkdir()
    assert_one(
        plugin_files, facts(tmp_path), Level.ERROR, "no executable file", "nvidia-vgpu install"
    )
    (tmp_path / "plugins/nvidia-vgpu").symlink_to("/no/such")
    assert_one(plugin_files, facts(tmp_path), Level.ERROR, "leads nowhere")


@pytest.mark.parametrize("link", [False, True], ids=["file", "link"])
def test_a_program_that_others_can_write_is_an_error(tmp_path: Path, *, link: bool) -> None:
    """In a folder that is as it should be; of a link it is what it leads to that counts."""
    entry = tmp_path / "plugins/nvidia-vgpu"
    program = written(tmp_path / "venv/nvidia-vgpu" if link else entry, PLUGIN)
    program.chmod(0o777)
    if link:
        entry.parent.mkdir()
        entry.symlink_to(program)
    assert_one(plugin_files, facts(tmp_path), Level.ERROR, f"{program} can be written", "chmod 755")
    program.chmod(0o755)
    assert_one(plugin_files, facts(tmp_path), Level.OK)


def test_a_single_file_that_was_cut_off_is_an_error(tmp_path: Path) -> None:
    """It begins as it should, and Nomad could not start it."""
    whole = "built_bytes=100000  \n"
    written(tmp_path / "plugins/nvidia-vgpu", PLUGIN + whole).chmod(0o755)
    assert_one(plugin_files, facts(tmp_path), Level.ERROR, "is damaged (", "| copy it again")


def test_a_folder_that_others_can_write_is_an_error(tmp_path: Path) -> None:
    """Nomad starts what is there as root."""
    written(tmp_path / "plugins/nvidia-vgpu", PLUGIN).chmod(0o755)
    (tmp_path / "plugins").chmod(0o777)
    assert_one(
        plugin_files, facts(tmp_path), Level.ERROR, "mode 0777", f"| chmod go-w {tmp_path}/plugins"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "neither plugin_dir nor data_dir"), ('plugin_dir = "here"', "absolute path")],
)
def test_a_folder_that_cannot_be_found_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    """Not set, or not absolute."""
    configured = read_config([written(tmp_path / "a.hcl", text)])
    known = unread(tmp_path)
    known = type(known)(known.node, configured, known.driver, (), NO_NOMAD)
    assert_one(plugin_files, known, Level.ERROR, words)


def test_without_the_configuration_nothing_is_judged(tmp_path: Path) -> None:
    """The folder is not known."""
    assert levels(plugin_files, unread(tmp_path, Problem("x"))) == []


OFFICIAL = 'plugin "nomad-device-nvidia" {{\n config {{\n  {}\n }}\n}}\n'


def with_official(tmp_path: Path, official: str | None, *, file: bool, **says: Any) -> Facts:
    """A node with our plugin in its place, and a block or a file of HashiCorp's beside it."""
    written(tmp_path / "plugins/nvidia-vgpu", PLUGIN).chmod(0o755)
    if file:
        written(tmp_path / "plugins/nomad-device-nvidia", "\x7fELF").chmod(0o755)
    known = facts(tmp_path, **says)
    if official is not None:
        written(tmp_path / "nomad.d/b.hcl", OFFICIAL.format(official))
    return dataclasses.replace(known, configured=read_config([tmp_path / "nomad.d"]))


def test_hashicorps_plugin_beside_ours_is_a_warning(tmp_path: Path) -> None:
    """By its file or its block, with neither a driver nor an agent that runs."""
    found = with_official(
        tmp_path, "", file=False, look=driver(problem=Problem("no driver", "install it"))
    )
    assert_one(
        plugin_files, found, Level.WARNING, f'{tmp_path}/nomad.d/b.hcl has a plugin "nomad-device'
    )
    found = with_official(tmp_path, None, file=True, look=driver(gpu("GPU-a")))
    words = (
        f"{tmp_path}/plugins holds nomad-device-nvidia and {tmp_path}/nomad.d/b.hcl has a plugin"
    )
    assert_one(plugin_files, found, Level.WARNING, words, "| take it out of both")
    found = with_official(tmp_path, 'ignored_gpu_ids = ["GPU-b"]', file=True, look=found.driver)
    assert_one(plugin_files, found, Level.WARNING)


@pytest.mark.parametrize("options", ["enabled = false", 'ignored_gpu_ids = ["gpu-A"]'])
def test_hashicorps_plugin_that_leaves_our_gpus_alone_is_ok(tmp_path: Path, options: str) -> None:
    """As docs/migration.md tells to run both; the GPUs that ours ignores it may have."""
    look = driver(gpu("GPU-a"), gpu("GPU-b"))
    ours = 'vgpus = 2\nignored_gpu_ids = ["GPU-b"]'
    found = with_official(tmp_path, options, file=True, look=look, options=ours)
    assert_one(plugin_files, found, Level.OK)


# API


def test_an_api_that_answers_is_ok(tmp_path: Path) -> None:
    """With the node that it takes this for."""
    assert_one(api, facts(tmp_path, nomad=offered()), Level.OK, "id-1")


def test_an_agent_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    """Or listens elsewhere."""
    assert_one(api, facts(tmp_path), Level.ERROR, "http://127.0.0.1:4646", "NOMAD_ADDR")


def test_a_problem_with_a_remedy_of_its_own_has_that(tmp_path: Path) -> None:
    """A token is no help to who has but to wait."""
    look = NO_NOMAD._replace(problem="does not know", refused=False, remedy="look again")
    assert_one(api, facts(tmp_path, nomad=look), Level.WARNING, "does not know", "| look again")


def test_an_api_that_says_nothing_is_a_warning(tmp_path: Path) -> None:
    """A token may be missing, which is no fault of the node."""
    look = NO_NOMAD._replace(problem="wants a token that may read nodes", refused=False)
    assert_one(api, facts(tmp_path, nomad=look), Level.WARNING, "wants a token", "NOMAD_TOKEN")


def test_nomads_own_plugin_is_an_error(tmp_path: Path) -> None:
    """Up to 1.1 it offers the GPUs too, unless it is told not to."""
    old = NomadLook("", version="1.1.2", node_id="n")
    known = dataclasses.replace(facts(tmp_path), nomad=old)
    assert any("built in, which offers the same GPUs" in text for _, text in said(version, known))
