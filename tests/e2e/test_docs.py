# SPDX-License-Identifier: MPL-2.0
"""Nomad's part of the docs: its commands, the HCL that is for it, and what it is said to say."""

import re
from pathlib import Path

import doc_pages
import pytest
from doc_pages import Block, Command

from e2e import binaries
from e2e.agent import Agent
from e2e.conftest import StartAgent

pytestmark = pytest.mark.nomad

HCL = doc_pages.blocks("hcl")
JOBS = [block for block in HCL if block.as_job()]
AGENTS = [block for block in HCL if block.as_agent()]
COMMANDS = {
    c.text: c for c in (*doc_pages.commands(), *doc_pages.inline()) if c.text.startswith("nomad ")
}
SINCE = {"plugin not referenced in the agent configuration file": (1, 10)}
"""What the page says that only newer versions of Nomad say."""
TROUBLESHOOTING = doc_pages.ROOT / "docs" / "troubleshooting.md"


@pytest.mark.parametrize("block", JOBS, ids=str)
def test_a_job_is_valid(agent: Agent, block: Block) -> None:
    """A part of one is, in a job that has nothing else."""
    file = agent.root / "documented.nomad.hcl"
    file.write_text(block.as_job() or "")
    done = agent.cli("job", "validate", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", AGENTS, ids=str)
def test_an_agent_starts_with_it(start_agent: StartAgent, block: Block) -> None:
    """Nomad parses it and its schema of ours takes the options, as the plugin does."""
    ours = re.compile(r'(plugin "nvidia-vgpu" {\s+config {\n)')
    agent = start_agent(ours.sub(r'\1    simulate = ["t4"]\n', block.as_agent() or ""))
    assert agent.the_plugin().is_running()


@pytest.mark.parametrize("command", COMMANDS.values(), ids=str)
def test_nomad_has_the_command_and_its_flags(agent: Agent, command: Command) -> None:
    """Its own help says so; for a command that does not exist it is the help of its group."""
    words = [word for word in command.words[1:] if not word.startswith("-")]
    said = agent.cli(*words, "-h").stdout
    usage = re.match(r"Usage: nomad ((?:[a-z]+ )+)(?!<subcommand>)", said)
    assert usage, said
    assert usage[1] in f"{' '.join(words)} "  # Nomad 1.6 calls `job status` just `status`
    for flag in set(command.words[1:]) - set(words):
        assert re.search(rf"^\s+{flag}\b", said, re.MULTILINE), said


def test_nomad_says_what_is_quoted(nomad: Path) -> None:
    """Each quotation of Nomad is a text in its program."""
    program, version = nomad.read_bytes(), binaries.version_of(nomad)
    quoted = doc_pages.quotes(TROUBLESHOOTING, "Nomad")
    assert quoted
    pieces = {piece.strip() for quote in quoted for piece in quote.split("…")}
    missing = {piece for piece in pieces if piece.encode() not in program}
    assert missing == {piece for piece, since in SINCE.items() if version < since}
