# SPDX-License-Identifier: MPL-2.0
"""Every command and every block in the docs is of a kind that some test runs or parses.

`contract/test_doc_commands.py` runs those of nvidia-vgpu, `e2e/test_docs.py` asks Nomad about its
own and about the HCL, `e2e/test_quickstart.py`, `test_operations.py` and `test_migration.py` follow pages.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import doc_pages
import pytest
import yaml
from doc_pages import Block, Command

from nomad_nvidia_vgpu import __version__
from nomad_nvidia_vgpu.cli.agent.config_file import read_config_file
from nomad_nvidia_vgpu.cli.agent.given import checked_config
from nomad_nvidia_vgpu.cli.main import cli

ELSEWHERE = {
    "systemctl restart nomad": "the machine's agent; e2e/machine.py restarts its own",
    "systemctl stop nomad": "the same",
    "systemctl start nomad": "the same",
    "install -m 755 nvidia-vgpu-0.2.0-linux-x86_64 /usr/local/bin/nvidia-vgpu": (
        "e2e/test_quickstart.py runs it"
    ),
    "mkdir -p /opt/nomad/data/plugins": "e2e/test_quickstart.py runs it",
    "cp /opt/nomad/data/plugins/nvidia-vgpu /opt/nvidia-vgpu.original": (
        "e2e/test_migration.py runs it"
    ),
    "install -m 755 /opt/nvidia-vgpu.original /opt/nomad/data/plugins/nvidia-vgpu": "the same",
    "curl -s http://127.0.0.1:9400/metrics": "contract/test_metrics.py reads what it would",
    "nvidia-ctk cdi generate --device-name-strategy=uuid --output=/etc/cdi/nvidia.yaml": (
        "NVIDIA's; tests/cdi_node has what it writes"
    ),
    "cp /usr/local/bin/nvidia-vgpu /opt/nvidia-vgpu.before": "e2e/test_operations.py runs it",
    "install -m 755 /opt/nvidia-vgpu.before /usr/local/bin/nvidia-vgpu": "the same",
    "python3 -m venv /opt/nvidia-vgpu-0.2.0": "the same",
    "/opt/nvidia-vgpu-0.2.0/bin/pip install --require-hashes -r requirements/run.txt": "the same",
    "/opt/nvidia-vgpu-0.2.0/bin/pip install --no-deps nomad_nvidia_vgpu-0.2.0-py3-none-any.whl": (
        "the same"
    ),
    "rm -r /opt/nvidia-vgpu-0.1.0": "the same",
    "sha256sum --check --ignore-missing SHA256SUMS": "unit/scripts/test_dist.py runs it",
    "diff dist/SHA256SUMS SHA256SUMS": "contract/test_dist.py compares two builds",
    "OUT=/path/for/results scripts/gpu-session.sh": "needs a GPU; `make gpu-test` starts it too",
}
"""Commands that are neither ours nor Nomad's, and why no test here runs them."""

OF_OTHERS = {
    "--venv": "pex",
    "--sh-boot": "pex",
    "--upgrade": "scripts/lock.sh",
    "--gpu-memory-utilization": "vLLM",
    "--device-name-strategy": "nvidia-ctk",
}
"""Flags that stand alone in a sentence and are not ours, and whose they are."""

OLD = {"0.1.0"}
"""Versions that stand for the one before, where a page upgrades."""

PROGRAMS_OF_OTHERS = {
    *(
        "nvidia-smi",
        "nvidia-ctk",
        "nvidia-cuda-mps-control",
        "docker",
        "podman",
        "python",
        "python3",
    ),
    *("systemctl", "journalctl", "dmesg", "modprobe", "rmmod", "lsmod", "mount", "umount", "kill"),
    *(
        "chmod",
        "chown",
        "chcon",
        "restorecon",
        "semanage",
        "cp",
        "rm",
        "ln",
        "mkdir",
        "curl",
        "pip",
    ),
}
"""What is a command where it begins a piece of text in a sentence and is not alone in it."""

IN_SENTENCES = {
    "chmod 755": "a remedy; what `install` puts into plugin_dir has that mode",
    "journalctl -u nomad": "the machine's own log; the tests read their agents' files",
    "modprobe nvidia": "needs a driver, or its kernel module",
    "rmmod nvidia": "the same",
    "python -m bench --quick": "takes minutes; `make bench` runs the module",
    "python -m bench --write-docs": "the same",
    "python -m bench cluster": "the same",
    "python -m bench cluster --write-docs": "the same",
    "python -m bench forms --other …": "the same",
    "python -m bench imports": "the same",
    "python3 -I -c pass": "what bench measures itself against, and no command for a reader",
    "nvidia-ctk cdi generate --device-name-strategy=uuid --output=/etc/cdi/nvidia.yaml": (
        "NVIDIA's; tests/cdi_node has what it writes"
    ),
    "nvidia-ctk --version": "what the plugin runs; tests/unit/host/test_toolkit.py has its answers",
    "systemctl daemon-reload": "of a machine with systemd, which the tests are not run on",
    "docker info": "of a docker that is installed; the e2e tests ask their own over its socket",
    "nvidia-ctk system create-dev-char-symlinks --create-all": "writes to the machine's /dev",
    "nvidia-smi -i 0 -mig 1": "needs a GPU with MIG whose mode may be set; from NVIDIA's MIG guide",
    "nvidia-smi mig -i 0 -cgi 3g.20gb,3g.20gb -C": "the same",
}
"""Commands of others in sentences and in comments of the examples, and why no test here runs them."""

MAKEFILE = (doc_pages.ROOT / "Makefile").read_text()
CONSOLE = doc_pages.commands()
FLEET = doc_pages.ROOT / "docs" / "fleet.md"
INLINE = [*doc_pages.inline(), *doc_pages.in_examples()]


def is_ours(command: Command) -> bool:
    """Whether it is our program, by its name or as the single file is called."""
    return re.match(r"\S*\bnvidia-vgpu(-[^/\s]+)? \S", command.text) is not None


def is_a_verb_of_ours(command: Command) -> bool:
    """Whether it is our program without its name, and with a flag."""
    verb, _, flags = command.text.partition(" ")
    return verb in cli.commands and flags.startswith("--")


def is_makes(command: Command) -> bool:
    """Whether it runs make, in a clone."""
    return command.text.startswith("make ")


VERBS = [c._replace(text=f"nvidia-vgpu {c.text}") for c in INLINE if is_a_verb_of_ours(c)]
OURS = [c for c in (*CONSOLE, *INLINE, *VERBS) if is_ours(c) and c.text not in ELSEWHERE]


def test_every_command_line_is_of_a_kind_that_is_tested() -> None:
    """Nobody adds one that no test knows, nor leaves an excuse behind."""
    texts = {command.text for command in CONSOLE}
    known = {c.text for c in CONSOLE if is_ours(c) or is_makes(c) or c.program == "nomad"}
    assert texts - known == set(ELSEWHERE)


def test_every_command_of_others_in_a_sentence_has_its_reason() -> None:
    """As those on lines of their own: none is added unseen, and no excuse is left behind."""
    texts = {c.text for c in INLINE if c.text.split()[0] in PROGRAMS_OF_OTHERS and " " in c.text}
    assert texts == set(IN_SENTENCES)


def test_only_lines_with_a_prompt_stand_in_a_console_block() -> None:
    """What a program answers would need a test of its own."""
    lines = [line for block in doc_pages.blocks("console") for line in block.text.splitlines()]
    assert [line for line in lines if line and not line.startswith(("$ ", "# "))] == []


@pytest.mark.parametrize("command", OURS, ids=str)
def test_our_command_exists_with_these_flags(command: Command, tmp_path: Path) -> None:
    """The real command line takes it; where the page names a file, a file is there."""
    file = tmp_path / "client.hcl"
    file.write_text("vgpus = 8\n")
    arguments = doc_pages.with_file(command.words[1:], file)
    arguments = [str(file) if word.endswith(".nomad.hcl") else word for word in arguments]
    if arguments[0].startswith("-"):
        assert arguments[0] in {name for option in cli.params for name in option.opts}
        return
    verb, *rest = arguments
    whole = click.Context(cli, **cli.context_settings)  # click remembers what stands for help
    context = cli.commands[verb].make_context(verb, rest, parent=whole)
    assert context.args == []


@pytest.mark.parametrize("command", [c for c in INLINE if re.match(r"--[a-z]", c.text)], ids=str)
def test_a_flag_in_a_sentence_is_one_of_ours(command: Command) -> None:
    """Of whichever command the sentence is about."""
    ours = {name for verb in cli.commands.values() for o in verb.params for name in o.opts}
    flags = {word.partition("=")[0] for word in command.text.split() if word.startswith("--")}
    assert flags - OF_OTHERS.keys() <= ours


@pytest.mark.parametrize("command", [c for c in (*CONSOLE, *INLINE) if is_makes(c)], ids=str)
def test_a_target_of_make_exists(command: Command) -> None:
    """With the variable that the page sets for it."""
    target, *variables = command.words[1:]
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)
    assert all(f"$({variable.partition('=')[0]})" in MAKEFILE for variable in variables)


def test_files_have_the_version_that_is_built() -> None:
    """A reader copies the name of the file."""
    pages = "".join(page.read_text() for page in doc_pages.PAGES)
    named = re.findall(r"(?:nvidia-vgpu|nomad_nvidia_vgpu)-(\d[\d.]*\d)", pages)
    assert set(named) - OLD == {__version__}


@pytest.mark.parametrize("block", doc_pages.blocks("hcl"), ids=str)
def test_hcl_is_of_a_job_or_a_config_that_the_plugin_takes(block: Block, tmp_path: Path) -> None:
    """The plugin's own decoder finds no fault; e2e/test_docs.py hands both kinds to Nomad."""
    agent = block.as_agent()
    assert (agent is None) != (block.as_job() is None)
    if agent is not None:
        file = tmp_path / "agent.hcl"
        file.write_text(agent)
        assert checked_config(read_config_file(file)).configured


@pytest.mark.parametrize("block", doc_pages.blocks("json", "yaml"), ids=str)
def test_json_and_yaml_parse(block: Block) -> None:
    """A reader copies it."""
    load = json.loads if block.language == "json" else yaml.safe_load
    assert isinstance(load(block.text), dict | list)


ANSIBLE = {
    "ansible.builtin.copy": {"src", "dest", "owner", "mode", "content"},
    "ansible.builtin.systemd": {"name", "state"},
}
"""Parameters of modules, as `ansible-doc` of ansible-core 2.19 names them."""
TASK = {"name", "changed_when", "register", "retries", "delay", "until", "ansible.builtin.command"}
PLAY = {"name", "hosts", "become", "serial", "max_fail_percentage", "vars", "tasks"}


def test_the_play_for_a_fleet_uses_parameters_that_there_are() -> None:
    """A wrong one fails on the first node of a fleet."""
    (text, _cloud) = (block.text for block in doc_pages.blocks("yaml", page=FLEET))
    (play,) = yaml.safe_load(text)
    assert play.keys() <= PLAY
    for task in play["tasks"]:
        modules = task.keys() - TASK
        assert modules <= ANSIBLE.keys()
        for module in modules:
            assert task[module].keys() <= ANSIBLE[module]


def test_the_commands_of_cloud_init_stop_at_the_first_that_fails() -> None:
    """`runcmd` goes on after a command that failed, so all are one."""
    (_play, text) = (block.text for block in doc_pages.blocks("yaml", page=FLEET))
    found = yaml.safe_load(text)
    assert found.keys() == {"write_files", "runcmd"}
    assert all(file.keys() <= {"path", "permissions", "content"} for file in found["write_files"])
    (command,) = found["runcmd"]
    words = [part.split()[:2] for part in command.split(" && ")]
    assert words == [
        ["nvidia-vgpu", "plan"],
        ["mv", "/etc/nomad.d/nvidia-vgpu.hcl.new"],
        ["nvidia-vgpu", "install"],
        ["systemctl", "restart"],
    ]


def test_every_block_is_in_a_language_that_is_looked_at() -> None:
    """Drawings have none; a query of Prometheus is parsed by no library that we have."""
    languages = {block.language for block in doc_pages.blocks()}
    assert languages <= {"console", "hcl", "json", "yaml", "promql", ""}
