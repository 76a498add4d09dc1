# SPDX-License-Identifier: MPL-2.0
"""Agents' files as our tools and as Nomad read them.

`AGENT_FILES=5000 pytest tests/e2e/test_agent_files.py` looks much longer than a usual run.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from e2e import binaries
from e2e.agent_files import generated
from e2e.conftest import StartAgent
from nomad_nvidia_vgpu.cli.agent.config_file import parsed_file
from nomad_nvidia_vgpu.cli.agent.hcl1_values import merged, plugins
from nomad_nvidia_vgpu.errors import ConfigError

pytestmark = pytest.mark.nomad

FILES = int(os.environ.get("AGENT_FILES", "300"))
MOST_REFUSED, FEWEST_REFUSED = 0.6, 0.1
"""Shares of the files, so that neither half of the test is about nothing."""


def refused_by_nomad(nomad: Path, file: Path) -> str:
    """What Nomad has against a file; nothing if it takes it."""
    command = [str(nomad), "config", "validate", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    # It complains of a missing data_dir too, once it has read all.
    unread = "failed to decode" in done.stderr or "unexpected keys" in done.stderr
    return done.stderr if done.returncode and ("Error" in done.stderr or unread) else ""


def refused_by_us(file: Path) -> str:
    """The same of our reader."""
    try:
        parsed = parsed_file(file)
        unknown = [item.keys[0] for item in parsed if item.keys[0].casefold() != "plugin"]
        for plugin in plugins(parsed):
            unknown += plugin.unexpected
            merged(plugin.body, "config")
    except (ConfigError, ValueError) as error:
        return str(error)
    return f"unexpected {unknown}" if unknown else ""


def test_our_reader_agrees_with_nomad(nomad: Path, tmp_path: Path, start_agent: StartAgent) -> None:
    """Each file is refused by both or by neither, and its `config` is what the agent says it has read.

    There are hundreds, made by chance and the same each time.
    """
    binaries.needs(nomad, 1, 3)
    folder = tmp_path / "read"
    folder.mkdir()
    disagreed, taken = [], []
    for seed in range(FILES):
        made = generated(seed, f"p{seed}")
        file = tmp_path / f"{seed:05}{made.suffix}"
        file.write_bytes(made.text.encode())
        theirs, ours = refused_by_nomad(nomad, file), refused_by_us(file)
        if bool(theirs) != bool(ours):
            disagreed.append(f"{file}: Nomad {theirs or 'takes it'!r}, we {ours or 'take it'!r}")
        elif not ours:
            taken.append(file.rename(folder / file.name))
    assert not disagreed, "\n".join(disagreed)
    assert FEWEST_REFUSED < 1 - len(taken) / FILES < MOST_REFUSED
    agent = start_agent("", start=False)
    agent.configs.insert(0, folder)
    agent.start()
    theirs_by_label = configs_of(agent.api.client.agent.get_agent()["config"]["Plugins"])
    for file in taken:
        for label, config in ours_in(file).items():
            assert theirs_by_label.get(label) == config, file


def ours_in(file: Path) -> dict[str, Any]:
    """The config of each plugin in a file."""
    return {p.label: merged(p.body, "config") for p in plugins(parsed_file(file))}


def configs_of(listed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The config of each plugin by the agent's own words: of several in one file the last counts."""
    return {plugin["Name"]: plugin["Config"] or {} for plugin in listed}
