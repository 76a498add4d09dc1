# SPDX-License-Identifier: MPL-2.0
"""The checks of docker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.check_docker import cgroups, docker
from nomad_nvidia_vgpu.cli.diagnosis.docker_api import DockerLook
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level
from unit.cli.diagnosis.nodes import assert_one, facts, levels, node, offered, said, written

RUNTIME = "nvidia-container-runtime"
BOTH = {"runc": "runc", "nvidia": RUNTIME}
BY_FILES = 'vgpus = 2\ndevice_nodes = "cdi"'
ONLY_RUNC = 'plugin "docker" {\n config {\n allow_runtimes = ["runc"]\n }\n}\n'
SILENT = DockerLook("/run/docker.sock", "does not answer (Permission denied)")


def running(  # noqa: PLR0913  each has a default, and is named
    tmp_path: Path,
    runtimes: dict[str, str] | None = None,
    default: str = "runc",
    *,
    options: str = "vgpus = 4",
    settings: object = None,
    more: str = "",
    cgroup_driver: str = "cgroupfs",
) -> Facts:
    """A dockerd that runs so; `settings` are those of its file."""
    if settings is not None:
        text = settings if isinstance(settings, str) else json.dumps(settings)
        written(tmp_path / "etc/docker/daemon.json", text)
    look = DockerLook(
        "/run/docker.sock",
        runtimes=BOTH if runtimes is None else runtimes,
        default_runtime=default,
        cgroup_driver=cgroup_driver,
    )
    return facts(tmp_path, options=options, on=node(tmp_path, [RUNTIME]), docker=look, more=more)


def test_a_node_without_docker_is_ok(tmp_path: Path) -> None:
    """The docker command alone makes no daemon."""
    assert_one(docker, facts(tmp_path, on=node(tmp_path, ["docker"])), Level.OK, "not on this node")


def test_a_dockerd_with_the_runtime_is_ok(tmp_path: Path) -> None:
    """By name or by path, whatever its file says."""
    assert_one(docker, running(tmp_path), Level.OK, RUNTIME)
    program = written(tmp_path / "usr/bin/r", "")
    found = running(tmp_path, {**BOTH, "nvidia": str(program)}, settings={"runtimes": {}})
    assert_one(docker, found, Level.OK, str(program))


def test_a_dockerd_without_the_runtime_is_a_warning(tmp_path: Path) -> None:
    """In the words by which a task fails; its file decides the remedy alone."""
    words = 'requested docker runtime "nvidia" was not found'
    assert_one(docker, running(tmp_path, {"runc": "runc"}), Level.WARNING, words, "nvidia-ctk")
    settings = {"runtimes": {"nvidia": {"path": RUNTIME}}}
    waiting = running(tmp_path, {"runc": "runc"}, settings=settings)
    assert_one(docker, waiting, Level.WARNING, words, "| systemctl restart docker")


def test_a_runtime_that_is_gone_is_an_error(tmp_path: Path) -> None:
    """The toolkit was removed and the setting was not."""
    assert_one(
        docker, running(tmp_path, {"nvidia": "/no/such"}), Level.ERROR, "/no/such", "not there"
    )


def test_a_runtime_that_nomad_does_not_allow_is_an_error(tmp_path: Path) -> None:
    """Nomad asks for it itself, and refuses it then."""
    assert_one(
        docker, running(tmp_path, more=ONLY_RUNC), Level.ERROR, "allow_runtimes", "device_nodes"
    )


def test_the_runtime_may_have_another_name(tmp_path: Path) -> None:
    """That of `nvidia_runtime` in the agent's block for docker."""
    named = 'plugin "docker" {\n config {\n nvidia_runtime = "gpus"\n allow_runtimes = ["gpus"]\n }\n}\n'
    assert_one(docker, running(tmp_path, {"gpus": RUNTIME}, more=named), Level.OK, '"gpus"')
    assert_one(docker, running(tmp_path, more=named), Level.WARNING, '"gpus" was not found')


def test_the_runtime_as_default_is_a_warning(tmp_path: Path) -> None:
    """It opens all GPUs to a job without a device block; the remedy is where it was set."""
    found = said(
        docker, running(tmp_path, default="nvidia", settings={"default-runtime": "nvidia"})
    )
    assert [level for level, _ in found] == [Level.OK, Level.WARNING]
    assert 'take "default-runtime" out of' in found[1][1]
    _, (_, by_flag) = said(docker, running(tmp_path, default="nvidia", settings={}))
    assert "its unit or another --config-file" in by_flag


@pytest.mark.parametrize("name", ["nvidia", "something"])
def test_with_device_files_the_runtime_as_default_is_an_error(tmp_path: Path, name: str) -> None:
    """Under whatever name: containers would see every GPU beside those of their reservation."""
    runtimes = {"runc": "runc", name: f"/usr/bin/{RUNTIME}"}
    found = running(tmp_path, runtimes, name, options=BY_FILES)
    assert_one(docker, found, Level.ERROR, "sees every GPU", 'NVIDIA_VISIBLE_DEVICES = "void"')


def test_with_device_files_a_runtime_that_jobs_can_name_is_a_warning(tmp_path: Path) -> None:
    """Nobody needs it then; where Nomad or dockerd does not have it all is well."""
    found = running(tmp_path, options=BY_FILES)
    assert_one(docker, found, Level.WARNING, "can name the runtime", 'allow_runtimes = ["runc"]')
    assert_one(
        docker, running(tmp_path, options=BY_FILES, more=ONLY_RUNC), Level.OK, "reservation alone"
    )
    without = running(tmp_path, {"runc": "runc"}, options=BY_FILES)
    assert_one(docker, without, Level.OK, "reservation alone")


@pytest.mark.parametrize("options", ["vgpus = 4", BY_FILES])
def test_a_dockerd_that_does_not_answer_is_never_ok(tmp_path: Path, options: str) -> None:
    """What Nomad knows of it stands for its runtimes, and nothing for its default."""
    unknown = facts(tmp_path, options=options, on=node(tmp_path, ["dockerd"]), docker=SILENT)
    assert_one(docker, unknown, Level.WARNING, "Permission denied", "root")
    known = facts(
        tmp_path,
        options=options,
        on=node(tmp_path, ["dockerd"]),
        docker=SILENT,
        nomad=offered(docker_runtimes=("nvidia", "runc")),
    )
    assert levels(docker, known)[-1] is Level.WARNING
    assert "default runtime" in said(docker, known)[-1][1]


def test_a_file_that_does_not_parse_explains_the_silence(tmp_path: Path) -> None:
    """A dockerd does not start with it; where one runs it is not looked at."""
    written(tmp_path / "etc/docker/daemon.json", "{,")
    assert_one(docker, facts(tmp_path), Level.ERROR, "not valid JSON", "fix it")
    assert_one(docker, running(tmp_path, settings="{,"), Level.OK)


def test_cgroups_of_dockers_own_are_ok(tmp_path: Path) -> None:
    """Nobody else touches them; of a dockerd that is not asked nothing is said."""
    assert_one(cgroups, running(tmp_path), Level.OK, "cgroupfs")
    assert_one(cgroups, facts(tmp_path), Level.OK, "not on this node")
    assert levels(cgroups, facts(tmp_path, on=node(tmp_path, ["dockerd"]))) == []


def test_systemd_takes_gpus_that_it_does_not_find(tmp_path: Path) -> None:
    """It finds a device by its numbers in /dev/char."""
    dev = tmp_path / "dev"
    (dev / "char").mkdir(parents=True)
    (dev / "nvidia0").symlink_to("/dev/null")  # whose numbers are 1 and 3
    found = running(tmp_path, cgroup_driver="systemd", options=BY_FILES)
    words = (f"has no link to {dev}/nvidia0", "create-dev-char-symlinks", "cgroupfs")
    assert_one(cgroups, found, Level.WARNING, *words)
    (dev / "char/1:3").symlink_to("../nvidia0")
    assert_one(cgroups, found, Level.OK, "finds them")


def test_systemd_takes_gpus_that_a_hook_has_added(tmp_path: Path) -> None:
    """Links do not help there; with device files of the reservation no hook adds any."""
    text = '[nvidia-container-runtime]\nmode = "legacy"\n'
    written(tmp_path / "etc/nvidia-container-runtime/config.toml", text)
    found = running(tmp_path, cgroup_driver="systemd")
    assert_one(cgroups, found, Level.WARNING, "behind systemd's back", "1.18")
    assert_one(cgroups, running(tmp_path, cgroup_driver="systemd", options=BY_FILES), Level.OK)
