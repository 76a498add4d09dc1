# SPDX-License-Identifier: MPL-2.0
"""A machine with docker, podman and NVIDIA's container toolkit: one namespace, and a dockerd in it.

The mounts and the network are the namespace's own, and all files are below one folder. Nomad stays
outside and meets dockerd by its socket. Containers are ended by their ids.
"""

import json
import os
import shlex
import subprocess
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from e2e.container_tools import ContainerTools
from e2e.driver_root import NVIDIA_SMI, DriverRoot
from e2e.jobs import END_OF_ENVIRONMENT
from e2e.waiting import PATIENCE_S, wait_until

IMAGE = "nvidia/cuda:11.0-base"
"""That of the job in the original's README."""
GPU_LIST = "list-gpus"
"""The program in the image that says which device files of GPUs are there, without a driver."""
MPS_CLIENT = "mps-client"
"""The program in the image that meets the MPS daemon and prints its answer."""
CDI_DIRECTORY = "/run/cdi"
_RUNTIME_CONFIG = """
[nvidia-container-cli]
root = "{driver}"

[nvidia-container-runtime]
runtimes = ["{runc}"]

[nvidia-ctk]
path = "{hook}"
"""
_IMAGE_PROGRAMS = ("sh", "ls", "cat", "env", "sleep", "echo", "mknod", "test", "true", "stat", "id")


class DockerHost:
    """The machine, until `close`."""

    def __init__(  # noqa: PLR0913  each is one decision of the test
        self,
        root: Path,
        tools: ContainerTools,
        driver: DriverRoot,
        environment: dict[str, str],
        *,
        default_runtime: str = "runc",
        unified_cgroups: bool = False,
    ) -> None:
        """Starts dockerd. `environment` is for the runtimes; with `unified_cgroups` there is cgroup v2."""
        self.root = root
        self.tools = tools
        self.driver = driver
        self.socket = root / "docker.sock"
        self.cdi = root / "cdi"
        self.cdi.mkdir()
        self.limits = root / "limits"
        """What hooks have told the driver to hold: lines of tests/libnvidia_ml/memory_limits.c."""
        self._log = root / "dockerd.log"
        self._environment = {
            **environment,
            "PATH": f"{self._programs(environment)}:{tools.path()}",
            "HOME": str(root),
            "XDG_CONFIG_HOME": str(root / "config"),
            "LD_LIBRARY_PATH": str(tools.libraries),
        }
        self._started_cgroups = _container_cgroups()
        self._write_configs(default_runtime)
        self._process = self._start(unified_cgroups=unified_cgroups)
        wait_until("dockerd answers", self._answers, seen=self.log)
        self._import_image()

    def _programs(self, environment: Mapping[str, str]) -> Path:
        """NVIDIA's hook with its variables, since runc hands it none."""
        place = self.root / "bin"
        place.mkdir()
        given = {**environment, "FAKE_NVML_LIMITS": str(self.limits)}
        words = [f"{name}={shlex.quote(value)}" for name, value in given.items()]
        hook = place / "nvidia-cdi-hook"
        program = shlex.quote(str(self.tools.toolkit / hook.name))
        hook.write_text(f'#!/bin/sh\nexport {" ".join(words)}\nexec {program} "$@"\n')
        hook.chmod(0o755)
        return place

    def _write_configs(self, default_runtime: str) -> None:
        config = self.root / "config/nvidia-container-runtime/config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(
            _RUNTIME_CONFIG.format(
                driver=self.driver.root,
                runc=self.tools.root / "usr/sbin/runc",
                hook=self.root / "bin/nvidia-cdi-hook",
            )
        )
        daemon = {
            "data-root": str(self.root / "data"),
            "exec-root": str(self.root / "exec"),
            "pidfile": str(self.root / "docker.pid"),
            "hosts": [f"unix://{self.socket}"],
            "storage-driver": "vfs",
            "iptables": False,
            "ip6tables": False,
            "default-runtime": default_runtime,
            "runtimes": {"nvidia": {"path": str(self.tools.toolkit / "nvidia-container-runtime")}},
        }
        (self.root / "daemon.json").write_text(json.dumps(daemon))

    def _start(self, *, unified_cgroups: bool) -> subprocess.Popen[bytes]:
        script = [
            "ip link set lo up || true",
            "mount -t tmpfs tmpfs /run",
            f"mkdir -p {CDI_DIRECTORY}",
            f"mount --bind {self.cdi} {CDI_DIRECTORY}",
            f"mount --bind {self.driver.proc} /proc/driver",
            *(["mount -t cgroup2 cgroup2 /sys/fs/cgroup"] if unified_cgroups else []),
            f"exec {self.tools.root}/usr/sbin/dockerd --config-file {self.root}/daemon.json",
        ]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [
                    "unshare",
                    "--mount",
                    "--propagation",
                    "slave",
                    "--net",
                    "sh",
                    "-ec",
                    "\n".join(script),
                ],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.root,
                start_new_session=True,
            )

    def log(self) -> str:
        """The end of what dockerd has said."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-40:])

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            said = self.log()
            if "Operation not permitted" in said and "unshare" in said:
                pytest.skip(f"no namespaces of our own here: {said}")
            raise AssertionError(f"dockerd has ended: {said}")
        return self.socket.exists() and self.docker("version", check=False).returncode == 0

    def _import_image(self) -> None:
        tree = self.root / "image"
        (tree / "bin").mkdir(parents=True)
        for folder in ("dev", "proc", "sys", "tmp", "etc", "usr/bin"):
            (tree / folder).mkdir(parents=True)
        (tree / "bin/busybox").write_bytes(self.tools.busybox.read_bytes())
        (tree / "bin/busybox").chmod(0o755)
        (tree / "bin" / GPU_LIST).write_text(NVIDIA_SMI)
        (tree / "bin" / GPU_LIST).chmod(0o755)
        compiler = shlex.split(os.environ.get("CC", "") or "cc")
        output = str(tree / "bin" / MPS_CLIENT)
        source = str(Path(__file__).parent / "mps_client.c")
        subprocess.run([*compiler, "-static", "-O1", "-o", output, source], check=True)
        for name in _IMAGE_PROGRAMS:
            (tree / "bin" / name).symlink_to("busybox")
        archive = self.root / "image.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(tree, arcname=".")
        path = "ENV PATH=/usr/local/nvidia/bin:/usr/bin:/bin"
        every = "ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        self.docker("import", "--change", path, "--change", every, str(archive), IMAGE)

    def run(
        self, *command: str, check: bool = True, environment: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """A program as root of this machine; AssertionError with what it said if it fails."""
        own = f"/proc/{self._process.pid}/ns"
        namespaces = [f"--mount={own}/mnt", f"--net={own}/net"]
        done = subprocess.run(
            ["nsenter", *namespaces, "--", *command],
            env={**self._environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done

    def docker(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Docker's command line."""
        program = str(self.tools.root / "usr/bin/docker")
        return self.run(program, "-H", f"unix://{self.socket}", *arguments, check=check)

    def output(self, allocation: Mapping[str, Any], until: str, task: str = "main") -> str:
        """What the container of a task has printed, once `until` is in it.

        Nomad's own copy may miss what a container printed that has ended at once.
        """
        name = f"{task}-{allocation['ID']}"

        def look() -> str | None:
            text = self.docker("logs", name, check=False).stdout
            return text if until in text else None

        return wait_until(f"{until!r} in the output of {name}", look)

    def environment(self, allocation: Mapping[str, Any]) -> dict[str, str]:
        """The environment that the container of a task printed."""
        lines = self.output(allocation, END_OF_ENVIRONMENT).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def pid(self, allocation: Mapping[str, Any], task: str = "main") -> int:
        """The first process of the container of a task, as the host numbers it."""
        name = f"{task}-{allocation['ID']}"
        return int(self.docker("inspect", "-f", "{{.State.Pid}}", name).stdout)

    def containers(self) -> list[str]:
        """The ids of all containers, running or not."""
        return self.docker("ps", "-aq", "--no-trunc").stdout.split()

    def generate_cdi(self, *arguments: str) -> Path:
        """The specification that `nvidia-ctk` writes for this machine, where podman looks for it."""
        file = self.cdi / "nvidia.yaml"
        root = f"--driver-root={self.driver.root}"
        hook = f"--nvidia-cdi-hook-path={self.root}/bin/nvidia-cdi-hook"
        self.run("nvidia-ctk", "cdi", "generate", root, hook, f"--output={file}", *arguments)
        return file

    def info(self) -> dict[str, Any]:
        """What dockerd says of itself."""
        found: dict[str, Any] = json.loads(self.docker("info", "-f", "{{json .}}").stdout)
        return found

    def close(self) -> None:
        """Ends the containers, dockerd and the namespace, and removes the cgroups that they left."""
        if self._process.poll() is None:
            for container in self.containers():
                self.docker("rm", "--force", container, check=False)
            self._process.terminate()
            self._process.wait(PATIENCE_S)
        for cgroup in _container_cgroups() - self._started_cgroups:
            for place, _, _ in os.walk(cgroup, topdown=False):
                with suppress(OSError):  # somebody else's containers may be in it by now
                    Path(place).rmdir()


def _container_cgroups() -> set[Path]:
    """The cgroups in which container engines make those of their containers."""
    found = Path("/sys/fs/cgroup").glob("*")
    return {
        place / name
        for place in found
        for name in ("docker", "libpod_parent")
        if (place / name).is_dir()
    }


def device_files(output: str) -> set[str]:
    """The device files that `nvidia-smi` or GPU_LIST printed."""
    lines = output.splitlines()
    return {line.removeprefix("device:") for line in lines if line.startswith("device:")}
