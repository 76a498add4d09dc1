# SPDX-License-Identifier: MPL-2.0
"""Which pins are for which Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.markers import Marker

from scripts import wheels
from scripts.pins import REQUIREMENTS, Pin, pins
from scripts.wheels import ARCHITECTURES, PYTHONS, Target

PINS = [
    Pin("click", "8", "", ()),
    Pin("regex", "1", "python_full_version < '3.11'", ()),
    Pin("regex", "2", "python_full_version >= '3.11'", ()),
    Pin("colorama", "1", "sys_platform == 'win32'", ()),
]


@pytest.mark.parametrize(("python", "regex"), [("3.10", "1"), ("3.11", "2"), ("3.14", "2")])
def test_pins_are_those_of_the_target(python: str, regex: str) -> None:
    """Conditions are judged by the Python that the wheels are for, not the one that runs."""
    needed = Target(python, "x86_64").needed(PINS)
    assert [(pin.name, pin.version) for pin in needed] == [("click", "8"), ("regex", regex)]


def test_the_machine_is_the_targets() -> None:
    """Not the one that builds."""
    marker = Marker("platform_machine == 'aarch64'")
    assert [Target("3.14", a).meets(marker) for a in ARCHITECTURES] == [False, True]


def test_extras_are_not_asked_for() -> None:
    """What a package needs for one of its extras is not needed."""
    assert not Target("3.14", "x86_64").meets(Marker("extra == 'jupyter'"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("python", PYTHONS)
def test_each_python_is_given_every_package(python: str, architecture: str) -> None:
    """What runs is pinned once for each, whatever the conditions."""
    pinned = list(pins((REQUIREMENTS / "run.txt").read_text()))
    needed = [pin.name for pin in Target(python, architecture).needed(pinned)]
    assert sorted(needed) == sorted({pin.name for pin in pinned})


def test_the_oldest_python_is_the_packages() -> None:
    """The single file promises no less than the wheel."""
    pyproject = (REQUIREMENTS.parent / "pyproject.toml").read_text()
    assert f'requires-python = ">={PYTHONS[0]}"' in pyproject


def test_a_download_is_kept_until_the_pins_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that failed is not taken for whole."""
    asked: list[str] = []

    def refuse(target: Target, listed: Path, directory: Path) -> None:
        (directory / "half.whl").touch()
        raise wheels.DownloadError

    def answer(target: Target, listed: Path, directory: Path) -> None:
        asked.append(listed.read_text())
        (directory / "click-8-py3-none-any.whl").touch()

    monkeypatch.setattr(wheels, "CACHE", tmp_path)
    target = Target("3.14", "x86_64")
    monkeypatch.setattr(wheels, "_pip_download", refuse)
    with pytest.raises(wheels.DownloadError):
        wheels.download(target, PINS[:1])
    monkeypatch.setattr(wheels, "_pip_download", answer)
    first = wheels.download(target, PINS[:1])
    assert wheels.download(target, PINS[:1]) == first
    assert asked == ["click==8\n"]
    wheels.download(target, PINS[2:3])
    assert asked == ["click==8\n", "regex==2\n"]
