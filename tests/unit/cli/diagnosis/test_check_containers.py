# SPDX-License-Identifier: MPL-2.0
"""The checks of container runtimes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.check_containers import docker, podman, toolkit
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level
from unit.cli.diagnosis.nodes import driver, facts, node, one, written
from unit.example_gpus import gpu

RUNTIME = "nvidia-container-runtime"


def with_docker(tmp_path: Path, settings: object, *programs: str) -> Facts:
    """A node with dockerd, set so."""
    text = settings if isinstance(settings, str) else json.dumps(settings)
    written(tmp_path / "etc/docker/daemon.json", text)
    return facts(tmp_path, on=node(tmp_path, ["dockerd", *programs]))


def runtimes(path: str = RUNTIME, **more: str) -> dict[str, object]:
    """Settings with NVIDIA's runtime."""
    return {"runtimes": {"nvidia": {"path": path, "args": []}}, **more}


def test_a_node_without_docker_is_ok(tmp_path: Path) -> None:
    """The docker command alone makes no daemon."""
    one(docker, facts(tmp_path, on=node(tmp_path, ["docker"])), Level.OK, "not on this node")


def test_a_dockerd_with_the_runtime_is_ok(tmp_path: Path) -> None:
    """By name or by path."""
    one(docker, with_docker(tmp_path, runtimes(), RUNTIME), Level.OK, RUNTIME)
    program = written(tmp_path / "usr/bin/r", "")
    one(docker, with_docker(tmp_path, runtimes(str(program))), Level.OK, str(program))


@pytest.mark.parametrize("settings", [{}, {"runtimes": {"runc": {}}}, {"runtimes": 7}, []])
def test_a_dockerd_without_the_runtime_is_a_warning(tmp_path: Path, settings: object) -> None:
    """In the words by which a task fails, for those who search for them."""
    found = with_docker(tmp_path, settings)
    one(
        docker,
        found,
        Level.WARNING,
        'requested docker runtime "nvidia" was not found',
        "nvidia-ctk",
    )


def test_a_dockerd_without_settings_is_a_warning(tmp_path: Path) -> None:
    """As it is after its installation."""
    one(docker, facts(tmp_path, on=node(tmp_path, ["dockerd"])), Level.WARNING, "no runtime")


def test_a_runtime_that_is_gone_is_an_error(tmp_path: Path) -> None:
    """The toolkit was removed and the setting was not."""
    one(docker, with_docker(tmp_path, runtimes()), Level.ERROR, "not there")
    one(docker, with_docker(tmp_path, runtimes("/no/such")), Level.ERROR, "/no/such")


def test_settings_that_do_not_parse_are_an_error(tmp_path: Path) -> None:
    """A dockerd does not start with them."""
    one(docker, with_docker(tmp_path, "{,"), Level.ERROR, "not valid JSON")


def test_the_runtime_as_default_is_a_warning(tmp_path: Path) -> None:
    """It opens all GPUs to any job."""
    settings = runtimes(**{"default-runtime": "nvidia"})
    one(docker, with_docker(tmp_path, settings, RUNTIME), Level.WARNING, "NVIDIA_VISIBLE_DEVICES")


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
    ],
)
def test_the_toolkit_listens_to_our_variable(
    tmp_path: Path, text: str | None, level: Level, words: str
) -> None:
    """A hardened node takes GPUs from mounts alone, which Nomad does not give."""
    if text is not None:
        written(tmp_path / "etc/nvidia-container-runtime/config.toml", text)
    one(toolkit, facts(tmp_path, on=node(tmp_path, [RUNTIME])), level, words)


def test_a_node_without_the_toolkit_is_ok(tmp_path: Path) -> None:
    """It may need none; whether docker misses it is another check's."""
    one(toolkit, facts(tmp_path), Level.OK, "not on this node")


def test_settings_that_are_no_text_are_a_warning(tmp_path: Path) -> None:
    """Nothing is guessed."""
    path = written(tmp_path / "etc/nvidia-container-runtime/config.toml", "")
    path.write_bytes(b"\xff\xfe")
    one(toolkit, facts(tmp_path), Level.WARNING, "cannot be read")


def test_with_device_nodes_docker_needs_nothing_of_nvidias(tmp_path: Path) -> None:
    """Tasks are given files then, by any runtime."""
    written(tmp_path / "etc/docker/daemon.json", "{}")
    found = facts(tmp_path, options='vgpus = 2\ndevice_nodes = "cdi"')
    one(docker, found, Level.OK, "cdi")
    one(toolkit, found, Level.OK, "cdi")


def test_podman_needs_a_specification(tmp_path: Path) -> None:
    """It knows no other way to GPUs."""
    one(podman, facts(tmp_path), Level.OK, "not on this node")
    found = facts(tmp_path, on=node(tmp_path, ["podman"]))
    one(podman, found, Level.WARNING, "nvidia-ctk cdi generate")
    text = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices: []\n"
    written(tmp_path / "etc/cdi/nvidia.yaml", text)
    one(podman, found, Level.OK, "1 CDI specification")


def test_podman_needs_the_uuids_of_the_gpus(tmp_path: Path) -> None:
    """By which jobs ask for them; nvidia-ctk may have named them by index alone."""
    on = node(tmp_path, ["podman"])
    found = facts(tmp_path, look=driver(gpu("GPU-a"), gpu("GPU-b")), on=on)
    text = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n"
    edits = "  containerEdits: {}\n"
    path = written(tmp_path / "etc/cdi/nvidia.yaml", f"{text}- name: '0'\n{edits}")
    one(podman, found, Level.WARNING, "GPU-a or GPU-b")
    path.write_text(f"{text}- name: GPU-a\n{edits}")
    remedy = "| nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml --device-name-strategy=uuid"
    one(podman, found, Level.WARNING, "a device of the name GPU-b", remedy)
    path.write_text(f"{text}- name: GPU-a\n{edits}- name: GPU-b\n{edits}")
    one(podman, found, Level.OK)
    simulated = facts(tmp_path, look=driver(gpu("GPU-z", simulated=True)), on=on)
    one(podman, simulated, Level.OK)
