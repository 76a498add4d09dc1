# SPDX-License-Identifier: MPL-2.0
"""Verdicts and findings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pynvml
import pytest

from nomad_nvidia_vgpu.cli.agent import plugin_dir
from nomad_nvidia_vgpu.cli.agent.config_file import LABEL, mislabelled
from nomad_nvidia_vgpu.cli.agent.given import checked_config
from nomad_nvidia_vgpu.cli.agent.plugin_dir import Kind, PluginDir, Program
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level, error, error_of, ok, warning, warning_of
from nomad_nvidia_vgpu.config.options import options
from nomad_nvidia_vgpu.errors import ConfigError, Problem
from nomad_nvidia_vgpu.gpu.nvml import source
from nomad_nvidia_vgpu.sharing.plan import make_plan
from unit.example_gpus import gpu, inventory

HOSTILE = ["a: b", 'x": "y', '": ', ": " * 200, "{ a: (b", '\\": must be "x: y", got ']
"""What stands in quotes, and looks like the end of a sentence."""


def test_only_what_is_well_needs_no_remedy() -> None:
    """Each of the three has its level."""
    assert ok("a") == (Level.OK, "a", "")
    assert warning("a", "b") == (Level.WARNING, "a", "b")
    assert error("a", "b") == (Level.ERROR, "a", "b")


def test_an_error_is_told_with_its_remedy() -> None:
    """Each in its own field, whatever the sentences hold."""
    assert error_of(Problem("GPU-a: lost", "drain it")) == error("GPU-a: lost", "drain it")
    assert warning_of(Problem("a: b", "c: d")) == warning("a: b", "c: d")


def test_an_error_without_a_remedy_leads_to_the_log() -> None:
    """Nothing is guessed from its words."""
    assert error_of(Problem("it is: odd")) == error("it is: odd", "see the log of the Nomad agent")


def problems(given: dict[str, Any]) -> tuple[Problem, ...]:
    """What is wrong with these options; at least one thing."""
    with pytest.raises(ConfigError) as refused:
        checked_config(given)
    return refused.value.problems


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("name", [option.name for option in options()])
def test_no_value_of_an_option_is_cut(name: str, value: str) -> None:
    """Whatever it holds: the sentence has it whole, and the remedy says what is allowed."""
    for given in (value, [value]):
        (text,) = (
            problem for problem in problems({"vgpus": 2, name: given}) if problem.startswith(name)
        )
        said = error_of(text)
        assert text.startswith(said.sentence)
        assert said.sentence.count('"') % 2 == 0 or said.sentence == text
        assert said.remedy.startswith((f"make {name}", f"let {name}", "did you mean "))


@pytest.mark.parametrize("value", HOSTILE)
def test_no_label_of_a_block_is_cut(value: str) -> None:
    """A block for a GPU of that name."""
    for text in problems({"gpu": {value: {"vgpus": 0}}}):
        said = error_of(text)
        assert said.sentence == text
        assert said.remedy.startswith('make gpu "') or "…" in text


def test_a_wrong_number_is_told_what_is_allowed() -> None:
    """The sentence says it too, and a remedy must be one."""
    (text,) = problems({"vgpus": 2000})
    assert error_of(text).remedy == "make vgpus a whole number from 1 to 256"


def test_a_missing_library_has_the_driver_as_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial without a GPU comes after it, in the same sentence."""
    monkeypatch.setattr(source, "_LIBRARY", "libno-such-driver.so.1")
    error = pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    said = error_of(source._init_error(pynvml, error).problem)
    assert said.remedy.startswith("install the NVIDIA driver on this client")
    assert "simulate" in said.remedy


@pytest.mark.parametrize("number", [1, 4, 6, 9, 12, 13, 15, 16, 17, 18, 19, 999])
def test_each_error_of_the_driver_has_its_remedy(number: int) -> None:
    """NVML's own words are in quotes of another kind, before the remedy."""
    said = error_of(source._problem(pynvml, pynvml.NVMLError(number)).about("GPU-a"))
    assert f"({number})" in said.sentence
    assert said.remedy.split()[0] in {"load", "reload", "take", "run", "give", "drain", "see"}


def test_a_colon_in_the_name_of_a_file_is_no_remedy() -> None:
    """What is to be done comes after it."""
    folder = PluginDir("/a: b", exists=True, programs=(Program("c: d", Kind.ORIGINAL),))
    (text,) = plugin_dir.problems(folder)
    assert error_of(text).remedy == "remove it"
    said = error_of(mislabelled(Path("/a: b"), 3, "c: d"))
    assert said.remedy == f'write "{LABEL}"'


def test_a_warning_of_the_plan_keeps_the_selector_whole() -> None:
    """It is somebody's own words."""
    config = checked_config({"vgpus": 2, "gpu": {"a: b": {"vgpus": 4}}})
    (text,) = make_plan(config, inventory(gpu("GPU-a"))).warnings
    assert error_of(text).remedy == "fix it"
    assert 'gpu "a: b"' in error_of(text).sentence
