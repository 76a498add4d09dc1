# SPDX-License-Identifier: MPL-2.0
"""A machine of its own, as far as files go: what is installed there is gone after the test.

Documentation names real folders, such as /etc/nomad.d. In a mount namespace some of them are empty ones
of the test, and what is written to others does not reach the real ones.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.agent import Agent
from e2e.waiting import PATIENCE_S

PROGRAMS = Path("/usr/local/bin")
AGENT_CONFIG = Path("/etc/nomad.d")
DATA = Path("/opt/nomad/data")
PLUGINS = DATA / "plugins"

_WRITABLE = (Path("/etc"), PROGRAMS)
"""As on the real machine, and what is written there is gone with the namespace."""
_EMPTY = (AGENT_CONFIG, Path("/opt"), Path("/var/cache"))
_READY = "ready"
_DOCTORS_LAST = re.compile(r"nvidia-vgpu: (no|\d+) errors?, (no|\d+) warnings?")


class Machine:
    """The namespace, and commands in it; ends with `close`."""

    def __init__(self, root: Path) -> None:
        """Everything is kept below `root`. Skips, in CI fails, where this is not permitted."""
        self.root = root
        self._agent: Agent | None = None
        layers = root / "layers"
        script = [f"mkdir {layers}", f"mount -t tmpfs tmpfs {layers}"]
        for place in _WRITABLE:
            upper, work = layers / place.name, layers / f"{place.name}.work"
            where = f"lowerdir={place},upperdir={upper},workdir={work}"
            script += [f"mkdir {upper} {work}", f"mount -t overlay overlay -o {where} {place}"]
        for place in _EMPTY:
            own = root / place.name
            script += [f"mkdir -p {own} {place}", f"mount --bind {own} {place}"]
        script += [f"echo {_READY}", "exec cat"]  # which ends with us, however we end
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", "\n".join(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline().strip() != _READY:
            _, said = self._holder.communicate(timeout=PATIENCE_S)
            pytest.skip(f"no mount namespace of our own here: {said.strip()}")
        programs = (PROGRAMS, f"{sys.base_prefix}/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
        self.environment = {**os.environ, "PATH": ":".join(map(str, programs))}

    def path(self, path: Path) -> Path:
        """A file of this machine, as a path that the test can read and write."""
        return Path(f"/proc/{self._holder.pid}/root{path}")

    def run(self, command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a command line in a shell, as root of this machine; never fails by itself."""
        return subprocess.run(
            [*self._enter(cwd or self.root), "sh", "-c", command],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S * 2,
            check=False,
        )

    def type(self, command: str) -> str:
        """What a command line of the docs prints; AssertionError if it fails.

        The agent that it stops and starts is the adopted one. `doctor` may find what else is wrong with the
        real machine, but has to come to its end.
        """
        if restart := re.fullmatch(r"systemctl (stop|start|restart) nomad", command):
            assert self._agent is not None
            if restart[1] != "start" and self._agent.running():
                self._agent.stop()
            if restart[1] != "stop":
                self._agent.start()
            return ""
        done = self.run(command)
        said = done.stdout + done.stderr
        if command.endswith("nvidia-vgpu doctor"):
            *_, last = said.splitlines() or [""]
            counted = _DOCTORS_LAST.fullmatch(last)
            assert counted, f"{command}\n{said}"
            assert done.returncode == int(counted[1] != "no"), f"{command}\n{said}"
        else:
            assert done.returncode == 0, f"{command}\n{said}"
        return said

    def adopt(self, agent: Agent) -> None:
        """Makes an agent that has not been started the agent of this machine, with its API here.

        It reads AGENT_CONFIG and has its data in DATA, as the packages of Nomad have it.
        """
        self._agent = agent
        entering = agent.root / "nomad"
        entering.write_text(
            f'#!/bin/sh\nexec {" ".join(self._enter(agent.root))} {agent.binary} "$@"\n'
        )
        entering.chmod(0o755)
        (self.path(PROGRAMS) / "nomad").symlink_to(agent.binary)
        for number, file in enumerate(agent.configs):
            text = file.read_text().replace(str(agent.data_dir), str(DATA))
            kept = [line for line in text.splitlines() if not line.startswith("plugin_dir")]
            name = self.path(AGENT_CONFIG) / f"{number}-nomad.hcl"
            name.write_text("\n".join(kept))
        agent.binary = entering
        agent.configs = [AGENT_CONFIG]
        agent.plugin_dir = PLUGINS
        self.environment["NOMAD_ADDR"] = f"http://127.0.0.1:{agent.ports.http}"

    def close(self) -> None:
        """Ends the namespace, and with it all that was mounted in it."""
        self._holder.communicate(timeout=PATIENCE_S)

    def _enter(self, cwd: Path) -> list[str]:
        namespace = f"--mount=/proc/{self._holder.pid}/ns/mnt"
        return ["nsenter", namespace, "--", "env", f"--chdir={cwd}"]
