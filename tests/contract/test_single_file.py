# SPDX-License-Identifier: MPL-2.0
"""The single file as built, in environments that have next to nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import single_file

from nomad_nvidia_vgpu import __version__
from nomad_nvidia_vgpu.rpc.client import Host

from .conftest import HANDSHAKE, PATIENCE_S

pytestmark = pytest.mark.timeout(600)  # the first test builds it

A_MACHINE_HAS_SOME = pytest.mark.may_skip("no machine has every Python, old and new")

UNPACK_DIR = "NVIDIA_VGPU_UNPACK_DIR"

READ_ONLY = """
for kept in $KEPT; do mount --bind "$kept" "$kept"; done
while read -r _ _ _ _ point _; do
  case " $KEPT /proc /dev " in
    *" $point "*) ;;
    *) mount -o remount,bind,ro "$point" 2>/dev/null ;;
  esac
done </proc/self/mountinfo
unset KEPT
exec "$@"
"""
"""Runs a command on a machine on which nothing but the directories in $KEPT can be written to."""


@pytest.fixture(scope="session")
def built() -> Path:
    """The single file."""
    return single_file.built()


@pytest.fixture
def plugin(built: Path, tmp_path: Path) -> Iterator[Path]:
    """It alone in a plugin_dir; after the test it is still alone."""
    directory = tmp_path / "plugins"
    directory.mkdir()
    path = directory / "nvidia-vgpu"
    shutil.copy(built, path)
    yield path
    assert list(directory.iterdir()) == [path]


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """Where it unpacks itself to in these tests."""
    return tmp_path / "unpacked"


def only(python: Path | None) -> dict[str, str]:
    """An environment that leads to one Python and nothing else."""
    if python is None:
        pytest.skip("this machine has no such Python")
    return {"PATH": str(python.parent)}


def any_python() -> dict[str, str]:
    """An environment that leads to some Python that will do."""
    return only(next(filter(None, map(single_file.interpreter, ("3.11", "3.12", "3.10", "3.13")))))


def read_only_but(*kept: Path) -> list[str]:
    """The command that runs another where only these directories can be written to."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets us mount nothing")
    script = f"KEPT='{' '.join(map(str, kept))}'{READ_ONLY}"
    return ["unshare", "-m", "/bin/sh", "-c", script, "sh"]


def run(
    command: Sequence[str | Path], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """What a command says in exactly this environment."""
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def assert_serves(command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
    """Started like that it answers Nomad's calls, and ends when told to."""
    with Host([str(word) for word in command], HANDSHAKE, environment=environment) as host:
        assert host.info().version == __version__
        host.set_config({"vgpus": 2, "simulate": ["t4:2"]})
        (group,) = next(host.fingerprints())
        assert len(group.instances) == 4
        assert next(host.stats(0.05))
        reservation = host.reserve([group.instances[0].id])
        assert reservation.envs["NVIDIA_VGPU_MEMORY_MIB"] == "7680"
        host.plugin.shutdown(timeout_s=PATIENCE_S)
        assert host.plugin.process.wait(PATIENCE_S) == 0


@A_MACHINE_HAS_SOME
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_it_serves_under_each_python(version: str, plugin: Path, unpacked: Path) -> None:
    """With an environment that names the Python and the place, and nothing more."""
    environment = {**only(single_file.interpreter(version)), UNPACK_DIR: str(unpacked)}
    assert_serves([plugin], environment)
    assert_serves([plugin], environment)
    (contents,) = unpacked.iterdir()
    assert contents.name.endswith(
        f"-cpython-{version.replace('.', '')}-{os.uname().machine}-linux-gnu"
    )


def test_it_serves_with_no_environment_at_all(plugin: Path) -> None:
    """HOME and PATH unset, as under a bare init: it unpacks itself below /var/cache."""
    if not any(Path(f"/usr/bin/python{v}").exists() for v in ("3.10", "3.11", "3.12", "3.13")):
        pytest.skip("the Python of this machine will not do")
    read_only_but()
    cookie = 'NOMAD_PLUGIN_MAGIC_COOKIE="$NOMAD_PLUGIN_MAGIC_COOKIE"'
    script = f'mount -t tmpfs none /var/cache && exec env -i {cookie} "$@"'
    assert_serves(["unshare", "-m", "/bin/sh", "-c", script, "sh", str(plugin)], {})


@A_MACHINE_HAS_SOME
@pytest.mark.parametrize("version", single_file.TOO_OLD)
def test_an_old_python_gets_one_sentence(version: str, plugin: Path) -> None:
    """It says what is needed and what was found."""
    environment = only(single_file.interpreter(version))
    done = run([plugin], environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("nvidia-vgpu needs CPython 3.10 to 3.1")
    assert f"is Python {version} (cpython-" in done.stderr
    assert done.stderr.count("\n") == 1


@A_MACHINE_HAS_SOME
def test_a_newer_python_beside_an_old_one_is_found(
    plugin: Path, unpacked: Path, tmp_path: Path
) -> None:
    """Distributions of long support keep python3 old and offer others by their version."""
    old = next(filter(None, map(single_file.interpreter, single_file.TOO_OLD)), None)
    directory = only(old)["PATH"]
    path = f"{directory}:{any_python()['PATH']}"
    assert_serves([plugin], {"PATH": path, UNPACK_DIR: str(unpacked)})


@A_MACHINE_HAS_SOME
def test_it_does_not_go_round_in_circles(plugin: Path, tmp_path: Path) -> None:
    """An old Python that goes by a new one's name is tried once."""
    old = next(filter(None, map(single_file.interpreter, single_file.TOO_OLD)), None)
    only(old)
    assert old is not None
    for name in ("python3", "python3.11", "python3.13"):
        (tmp_path / name).symlink_to(old)
    done = run([plugin], {"PATH": str(tmp_path)})
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_without_any_python_there_is_one_sentence(plugin: Path, tmp_path: Path) -> None:
    """The shell says it, at a level that Nomad shows."""
    done = run([plugin], {"PATH": str(tmp_path), "NOMAD_PLUGIN_MAGIC_COOKIE": "x"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("[ERROR] nvidia-vgpu needs CPython")
    assert done.stderr.count("\n") == 1


def test_on_a_read_only_machine_any_private_directory_will_do(
    plugin: Path, short_path: Path
) -> None:
    """Only TMPDIR can be written to: contents and socket go there."""
    kept = short_path / "kept"
    kept.mkdir()
    assert_serves([*read_only_but(kept), str(plugin)], {**os.environ, "TMPDIR": str(kept)})
    assert [path.name for path in kept.iterdir()] == [f"nvidia-vgpu-{os.geteuid()}"]


def test_what_was_unpacked_serves_a_read_only_machine(
    plugin: Path, unpacked: Path, short_path: Path
) -> None:
    """An image can carry the contents; nothing is unpacked again."""
    environment = {**os.environ, UNPACK_DIR: str(unpacked)}
    assert run([plugin, "--version"], environment).returncode == 0
    sockets = short_path / "sockets"
    sockets.mkdir()
    command = [*read_only_but(sockets), str(plugin)]
    assert_serves(command, {**environment, "TMPDIR": str(sockets)})
    assert list(sockets.iterdir()) == []


def test_with_nothing_to_write_to_it_names_every_place(plugin: Path) -> None:
    """One sentence, and what to do."""
    done = run([*read_only_but(), plugin, "--version"], dict(os.environ))
    assert (done.returncode, done.stdout) == (1, "")
    assert "/var/cache/nvidia-vgpu: Read-only file system" in done.stderr
    assert f"set {UNPACK_DIR}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_noexec_mount_is_passed_over(plugin: Path, tmp_path: Path) -> None:
    """Compiled modules could not be loaded from there."""
    read_only_but()
    noexec = tmp_path / "noexec"
    noexec.mkdir()
    script = f"mount -t tmpfs -o noexec none {noexec}; KEPT='{noexec}'{READ_ONLY}"
    done = run(
        ["unshare", "-m", "/bin/sh", "-c", script, "sh", plugin, "--version"],
        {**os.environ, UNPACK_DIR: str(noexec)},
    )
    assert done.returncode == 1
    assert f"({noexec}: it is mounted noexec; " in done.stderr


def test_it_runs_nothing_from_where_others_can_write(plugin: Path, tmp_path: Path) -> None:
    """Neither unpacks into such a directory nor uses what lies there."""
    shared = tmp_path / "shared"
    environment = {**any_python(), UNPACK_DIR: str(shared)}
    assert run([plugin, "--version"], environment).returncode == 0
    shared.chmod(0o777)
    done = run(
        [*read_only_but(shared), plugin, "--version"], {**os.environ, UNPACK_DIR: str(shared)}
    )
    assert done.returncode == 1
    assert f"{shared} can be written to by others" in done.stderr


def test_nothing_of_the_machine_is_mixed_in(plugin: Path, unpacked: Path, tmp_path: Path) -> None:
    """A module that lies in PYTHONPATH or the working directory is not imported."""
    (tmp_path / "click.py").write_text("raise SystemExit(99)")
    environment = {**any_python(), UNPACK_DIR: str(unpacked), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [plugin, "--version"], env=environment, cwd=tmp_path, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout.decode()) == (0, f"nvidia-vgpu, version {__version__}\n")


def test_the_command_line_finds_itself(built: Path, unpacked: Path) -> None:
    """`launch` starts the file again, under the name that it was downloaded with."""
    environment = {**any_python(), UNPACK_DIR: str(unpacked)}
    done = run([built, "launch", "--vgpus", "2", "--simulate", "t4", "--json"], environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["plugin"]["version"] == __version__


def test_first_starts_at_the_same_time_share_one_unpacking(plugin: Path, unpacked: Path) -> None:
    """Agents of one machine may start together."""
    environment = {**any_python(), UNPACK_DIR: str(unpacked)}
    together = [
        subprocess.Popen([plugin, "--version"], env=environment, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    said = [process.communicate()[0].decode() for process in together]
    assert said == [f"nvidia-vgpu, version {__version__}\n"] * 4
    assert len(list(unpacked.iterdir())) == 1


def test_a_killed_unpacking_leaves_nothing_half_done(plugin: Path, unpacked: Path) -> None:
    """The next start unpacks again, and serves."""
    environment = {**any_python(), UNPACK_DIR: str(unpacked)}
    slow = ["/usr/bin/nice", "-n", "19"]  # it must not be done before it is seen at work
    command = [*slow, str(plugin), "--version"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as first:
        while first.poll() is None and not list(unpacked.glob(".unpacking-*/*")):
            time.sleep(0.001)
        first.kill()
    assert not [path for path in unpacked.iterdir() if not path.name.startswith(".")]
    assert_serves([plugin], environment)


def test_a_damaged_file_says_so(built: Path, unpacked: Path, tmp_path: Path) -> None:
    """A download that went wrong is not taken for something else."""
    damaged = tmp_path / "nvidia-vgpu"
    content = bytearray(built.read_bytes())
    place = content.index(b"common.zip") + 1000
    content[place : place + 1000] = bytes(1000)
    damaged.write_bytes(content)
    damaged.chmod(0o755)
    done = run([damaged, "--version"], {**any_python(), UNPACK_DIR: str(unpacked)})
    assert done.returncode == 1
    assert done.stderr.startswith(f"{damaged} is damaged (")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("kept", [0.1, 0.9])
def test_a_file_that_was_cut_off_says_so(
    built: Path, unpacked: Path, tmp_path: Path, kept: float
) -> None:
    """Python would take it for source. Through a link too, and at a level that Nomad shows."""
    damaged = tmp_path / "whole name"
    content = built.read_bytes()
    damaged.write_bytes(content[: int(len(content) * kept)])
    damaged.chmod(0o755)
    link = tmp_path / "nvidia-vgpu"
    link.symlink_to(damaged)
    path = f"{any_python()['PATH']}:/usr/bin:/bin"
    environment = {"PATH": path, UNPACK_DIR: str(unpacked), "NOMAD_PLUGIN_MAGIC_COOKIE": "x"}
    done = run([link], environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"[ERROR] {link} is damaged ({damaged.stat().st_size} bytes long, and built with"
        f" {len(content)}): copy it again\n"
    )
    assert not unpacked.exists()
