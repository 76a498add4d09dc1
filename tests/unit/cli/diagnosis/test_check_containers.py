# SPDX-License-Identifier: MPL-2.0
"""The checks of container runtimes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.check_containers import (
    adds_devices_late,
    memory_limits,
    podman,
    toolkit,
)
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level
from unit.cli.diagnosis.nodes import assert_one, driver, facts, node, said, written
from unit.example_gpus import gpu

RUNTIME = "nvidia-container-runtime"


@pytest.mark.parametrize(
    ("text", "level", "words"),
    [
        (None, Level.OK, "as it was delivered"),
        ("#accept-nvidia-visible-devices-envvar-when-unprivileged = false\n", Level.OK, "takes"),
        (
            "accept-nvidia-visible-devices-envvar-when-unprivileged = false # x\n",
            Level.ERROR,
            "true",
        ),
        ("[nvidia-container-cli]\nno-cgroups = true\n", Level.WARNING, "no-cgroups"),
        ("accept-nvidia-visible-devices-as-volume-mounts = true\n", Level.WARNING, "by a mount"),
        ('swarm-resource = "DOCKER_RESOURCE_GPU"\n', Level.WARNING, "DOCKER_RESOURCE_GPU"),
    ],
)
def test_the_toolkit_listens_to_our_variable(
    tmp_path: Path, text: str | None, level: Level, words: str
) -> None:
    """A hardened node takes GPUs from mounts alone, which Nomad does not give."""
    if text is not None:
        written(tmp_path / "etc/nvidia-container-runtime/config.toml", text)
    assert_one(toolkit, facts(tmp_path, on=node(tmp_path, [RUNTIME])), level, words)


def test_a_node_without_the_toolkit_is_ok(tmp_path: Path) -> None:
    """It may need none; whether docker misses it is another check's."""
    assert_one(toolkit, facts(tmp_path), Level.OK, "not on this node")


def test_settings_that_are_no_text_are_a_warning(tmp_path: Path) -> None:
    """Nothing is guessed."""
    path = written(tmp_path / "etc/nvidia-container-runtime/config.toml", "")
    path.write_bytes(b"\xff\xfe")
    assert_one(toolkit, facts(tmp_path), Level.WARNING, "cannot be read")


def test_with_device_nodes_the_toolkit_may_refuse_but_not_show_more(tmp_path: Path) -> None:
    """No task of ours needs its variable then, and any job could use what it takes besides."""
    path = tmp_path / "etc/nvidia-container-runtime/config.toml"
    written(path, "accept-nvidia-visible-devices-envvar-when-unprivileged = false\n")
    by_files = facts(tmp_path, options='vgpus = 2\ndevice_nodes = "cdi"')
    assert_one(toolkit, by_files, Level.OK, "takes no GPUs from the environment")
    written(path, "accept-nvidia-visible-devices-as-volume-mounts = true\n")
    assert_one(toolkit, by_files, Level.WARNING, "can name every GPU")


def test_what_a_limit_of_memory_lacks_is_a_warning(tmp_path: Path) -> None:
    """Each of toolkit, kernel and way to the GPU by itself; where nothing lacks, all is well."""
    on = node(tmp_path, output=answering("CLI version 1.19.0"))
    wanted = 'vgpus = 2\nmemory_isolation = "cgroup"'
    found = said(memory_limits, facts(tmp_path, options=wanted, on=on))
    assert [level for level, _ in found] == [Level.WARNING] * 2
    assert "1.20.1 or newer, and 1.19.0 is here" in found[0][1]
    assert "cgroup v2" in found[1][1]
    written(tmp_path / "sys/fs/cgroup/cgroup.controllers", "")
    on = node(tmp_path, output=answering("CLI version 1.20.1"))
    assert_one(
        memory_limits, facts(tmp_path, options=wanted, on=on), Level.OK, "let the driver hold"
    )
    both = f'{wanted}\ndevice_nodes = "cdi"'
    assert_one(memory_limits, facts(tmp_path, options=both, on=on), Level.WARNING, "device_nodes")


def test_a_limit_that_nobody_asks_for_is_ok(tmp_path: Path) -> None:
    """And it is said whether the node could."""
    silent = node(tmp_path, output=answering(OSError("no such file")))
    assert_one(memory_limits, facts(tmp_path, on=silent), Level.OK, "could not do")


@pytest.mark.parametrize(
    ("version", "mode", "late"),
    [
        ("1.17.8", None, True),
        ("1.18.0", None, False),
        ("1.20.2", "legacy", True),
        ("1.17.8", "cdi", False),
    ],
)
def test_an_old_toolkit_adds_devices_late(
    tmp_path: Path, version: str, mode: str | None, *, late: bool
) -> None:
    """Until 1.18 by default, and later where it is set to."""
    if mode is not None:
        text = f'[nvidia-container-runtime]\nmode = "{mode}"\n'
        written(tmp_path / "etc/nvidia-container-runtime/config.toml", text)
    on = node(tmp_path, output=answering(f"CLI version {version}"))
    assert adds_devices_late(facts(tmp_path, on=on)) is late


def answering(said: str | OSError) -> Callable[[Sequence[str], str | None], str]:
    """Any program says this, or cannot be run."""

    def output(_command: Sequence[str], _path: str | None) -> str:
        if isinstance(said, OSError):
            raise said
        return said

    return output


def test_podman_needs_a_specification(tmp_path: Path) -> None:
    """It knows no other way to GPUs."""
    assert_one(podman, facts(tmp_path), Level.OK, "not on this node")
    found = facts(tmp_path, on=node(tmp_path, ["podman"]))
    assert_one(podman, found, Level.WARNING, "nvidia-ctk cdi generate")
    text = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices: []\n"
    written(tmp_path / "etc/cdi/nvidia.yaml", text)
    assert_one(podman, found, Level.OK, "1 CDI specification")


def test_podman_needs_the_uuids_of_the_gpus(tmp_path: Path) -> None:
    """By which jobs ask for them; nvidia-ctk may have named them by index alone."""
    on = node(tmp_path, ["podman"])
    found = facts(tmp_path, look=driver(gpu("GPU-a"), gpu("GPU-b")), on=on)
    text = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n"
    edits = "  containerEdits: {}\n"
    path = written(tmp_path / "etc/cdi/nvidia.yaml", f"{text}- name: '0'\n{edits}")
    assert_one(podman, found, Level.WARNING, "GPU-a or GPU-b")
    path.write_text(f"{text}- name: GPU-a\n{edits}")
    remedy = "| nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml --device-name-strategy=uuid"
    assert_one(podman, found, Level.WARNING, "a device of the name GPU-b", remedy)
    path.write_text(f"{text}- name: GPU-a\n{edits}- name: GPU-b\n{edits}")
    assert_one(podman, found, Level.OK)
    simulated = facts(tmp_path, look=driver(gpu("GPU-z", simulated=True)), on=on)
    assert_one(podman, simulated, Level.OK)
