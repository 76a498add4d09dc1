# SPDX-License-Identifier: MPL-2.0
"""The docs say what the code does."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from doc_pages import CHANGELOG, PAGES, ROOT, rows

from nomad_nvidia_vgpu.cli.agent.config_file import read_config_file
from nomad_nvidia_vgpu.cli.agent.given import checked_config
from nomad_nvidia_vgpu.config.options import all_options
from scripts.option_table import BEGIN, PAGE, option_table, with_table
from scripts.pictures import HEIGHT, PICTURES, PLANNED, on_terminal

SOURCE = ROOT / "src" / "nomad_nvidia_vgpu"


def test_the_option_table_is_made_from_the_declarations() -> None:
    """`make docs` would change nothing."""
    page = PAGE.read_text()
    assert BEGIN in page
    assert with_table(page) == page
    assert option_table().count("\n") == 1 + len(list(all_options()))


def test_readme_is_short() -> None:
    """What, what was tried, first run, where next; the rest is in docs."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_readme_says_first_what_was_tried() -> None:
    """The pages with results on GPUs and versions of Nomad are named in its first screen."""
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:30])
    assert "(docs/gpu-validation.md)" in first_screen
    assert "(docs/compatibility.md)" in first_screen


@pytest.mark.parametrize("page", [*PAGES, CHANGELOG], ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """A page or a heading that was renamed must not leave dead links behind."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
        led_to = page.parent / target if target else page
        assert led_to.exists(), target
        assert not anchor or anchor in anchors(led_to), f"{target}#{anchor}"


@pytest.mark.parametrize("page", [*PAGES, CHANGELOG], ids=lambda p: p.name)
def test_every_row_of_a_table_has_its_cells(page: Path) -> None:
    """A cell without a heading, or a heading without cells, is left from an edit."""
    assert [row for row in rows(page) if len(row.cells) != len(row.header)] == []


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_what_pages_for_developers_name_is_in_the_tree(name: str) -> None:
    """A room or file that moved takes its row with it."""
    code = re.findall(r"`([\w.-]+/[\w./-]*)`", (ROOT / name).read_text())
    made = {"dist/"}
    missing = {
        path
        for path in set(code) - made
        if not (ROOT / path).exists() and not (SOURCE / path).exists()
    }
    assert code
    assert missing == set()


def test_the_picture_of_the_architecture_has_every_room() -> None:
    """A new room is drawn, with what it is for."""
    _, _, below = (ROOT / "docs" / "architecture.md").read_text().partition("```\n")
    drawn = below.partition("```")[0]
    rooms = {path.parent for path in SOURCE.rglob("__init__.py")} - {SOURCE}
    names = {room.name for room in rooms if room.name != "generated"}
    assert {name for name in names if f"{name}/" not in drawn} == set()


def test_what_refers_to_a_page_leads_there() -> None:
    """Code, tests, scripts and examples name pages and headings that are there."""
    found = {
        (page, anchor)
        for folder in ("src", "examples", "scripts", "tests", "bench")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".sh", ".hcl", ".yml"}
        for page, anchor in re.findall(r"\b(docs/[\w/-]+\.md)#?([\w-]*)", path.read_text())
    }
    assert found
    gone = {
        (p, a) for p, a in found if not (ROOT / p).exists() or (a and a not in anchors(ROOT / p))
    }
    assert gone == set()


def test_the_source_says_where_its_facts_come_from() -> None:
    """Each page of internals is referred to from the room that rests on it."""
    rooms = {
        "nvml.md": "gpu/nvml",
        "mps.md": "sharing/mps",
        "nomad.md": "goplugin",
        "containers.md": "sharing",
    }
    internals = ROOT / "docs" / "internals"
    found = {
        (name, str(path.relative_to(SOURCE).parent))
        for path in SOURCE.rglob("*.py")
        for name in re.findall(r"docs/internals/([\w.]+\.md)", path.read_text())
    }
    assert {page.name for page in internals.glob("*.md")} == set(rooms)
    assert found >= set(rooms.items())


@pytest.mark.parametrize("page", ["README.md", "health.md", "security.md", "migration.md"])
def test_pages_for_operators_name_no_tests(page: str) -> None:
    """The appendix does."""
    text = (ROOT / page if page == "README.md" else ROOT / "docs" / page).read_text()
    assert re.findall(r"`tests/\S+|`test_\w+", text) == []


def anchors(page: Path) -> set[str]:
    """The names by which GitHub finds the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", sorted(PICTURES), ids=lambda p: p.name)
def test_pictures_show_what_the_program_shows(path: Path) -> None:
    """`make docs` would draw the same."""
    assert path.read_text(encoding="utf-8") == PICTURES[path]()


def test_a_plan_of_eight_gpus_with_mps_fits_on_a_screen() -> None:
    """On a real terminal of 120 columns and 40 lines, with the prompt below it, nothing scrolls away."""
    shown = on_terminal("plan", "--config", os.devnull, *PLANNED).splitlines()
    assert len([line for line in shown if "GPU-f56689f4" in line or "GPU-4dd59cb6" in line]) == 2
    assert len(shown) < HEIGHT


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("agent*.hcl")), ids=lambda p: p.name
)
def test_every_example_of_an_agent_has_a_good_config(path: Path) -> None:
    """An operator who copies it gets no complaint from the plugin."""
    assert checked_config(read_config_file(path)).configured


def test_every_example_of_a_job_says_under_which_agent() -> None:
    """And each agent has a job to try it with."""
    examples = ROOT / "examples"
    named = {
        job.name: re.findall(r"\bagent[a-z-]*\.hcl", job.read_text())
        for job in examples.glob("*.nomad.hcl")
    }
    assert {name: len(agents) for name, agents in named.items() if len(agents) != 1} == {}
    assert {agent for agents in named.values() for agent in agents} == {
        path.name for path in examples.glob("agent*.hcl")
    }
