# SPDX-License-Identifier: MPL-2.0
"""A Nomad agent of our own: its ports, directories and log, its start, death and clean end."""

import os
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from e2e import binaries
from e2e.api import Api
from e2e.waiting import PATIENCE_S, wait_until

_START_S = 180.0
_LOG_LINES = 40
_PORTS = range(10_000, 20_000)
"""Below those that the kernel gives to outgoing connections, and Nomad to jobs."""

_OVERLAY = """
data_dir             = "{data_dir}"
plugin_dir           = "{plugin_dir}"
log_level            = "DEBUG"
disable_update_check = true

ports {{
  http = {ports.http}
  rpc  = {ports.rpc}
  serf = {ports.serf}
}}

client {{
  options = {{
    # These ask addresses that only exist in clouds, and wait for them.
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
  }}
  # All that a shell needs: the default copies most of /usr for every exec task.
  chroot_env {{
    {chroot}
  }}
}}

plugin "raw_exec" {{
  config {{
    enabled = true
  }}
}}
"""

# What `-dev` sets, except for the memory in which it keeps its state.
SERVER_ALONE = """
bind_addr = "127.0.0.1"

advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}

server {
  enabled          = true
  bootstrap_expect = 1
  raft_multiplier  = 1
}
"""
"""The roles of an agent that is no client."""

_STATEFUL = f"""{SERVER_ALONE}
client {{
  enabled = true
}}
"""
"""The default for an agent that is not a `dev` one: server and client."""


_given: set[int] = set()
"""Ports of agents of this test run."""


class Ports(NamedTuple):
    """The ports that an agent listens on."""

    http: int
    rpc: int
    serf: int


class AgentExitedError(Exception):
    """The agent ended though it should run; the text is the end of its log."""


class Agent:
    """One agent. It runs from `start` to `close`, save for what a test does to it."""

    def __init__(  # noqa: PLR0913  each is one decision of the test
        self,
        binary: Path,
        root: Path,
        config: str | Path,
        *,
        environment: Mapping[str, str] | None = None,
        dev: bool = True,
        roles: str = _STATEFUL,
    ) -> None:
        """`root` must be short (it ends up in socket paths).

        `config` is HCL or a file of it; the agent's own places and ports are added. An agent that
        is not a `dev` one keeps its state over a restart, and has the `roles`.
        """
        self.binary = binary
        self.root = root
        self.data_dir = root / "d"
        self.plugin_dir = root / "p"
        self.log_path = root / "agent.log"
        self.ports = _free_ports()
        self.api = Api(self.ports.http)
        self._dev = dev
        self._roles = roles
        self._temporary = root / "t"  # for sockets, which a killed plugin leaves behind
        self._environment = {
            **_inherited(),
            "TMPDIR": str(self._temporary),
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        for directory in (self.data_dir, self.plugin_dir, self._temporary):
            directory.mkdir(parents=True)
        (self.plugin_dir / binaries.PLUGIN_NAME).symlink_to(binaries.plugin())
        self.configs = self._write_configs(config)

    @property
    def pid(self) -> int:
        """The agent's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """All that the agent has said so far, over all its starts."""
        return self.log_path.read_text(errors="replace")

    def start(self) -> None:
        """Starts the agent and waits until its node is ready; AgentExitedError if it ends."""
        self.launch()
        self.api = Api(self.ports.http)  # pooled connections would be those to the former process

        def ready() -> object:
            if not self.running():
                raise AgentExitedError(self.log_tail())
            return self.api.ready_node()

        wait_until("the node is ready", ready, _START_S, seen=self.log_tail)

    def launch(self) -> None:
        """Starts the agent's process and waits for nothing."""
        mode = ["-dev", "-bind", "127.0.0.1"] if self._dev else []
        configs = [f"-config={path}" for path in self.configs]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.binary), "agent", *mode, *configs],
                cwd=self.root,  # inherited by all that the agent starts: see `_is_below`
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def restart_with(self, config: str) -> None:
        """Stops the agent and starts it with another configuration; its tasks run on meanwhile."""
        self.stop()
        (self.root / "given.hcl").write_text(config)
        self.start()

    def wait_for_exit(self, timeout_s: float = _START_S) -> int:
        """The agent's exit status, once it ended by itself."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def running(self) -> bool:
        """Whether the agent's process lives."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Kills the agent as a crash would; what it started lives on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(PATIENCE_S)

    def stop(self) -> float:
        """Ends the agent as `systemctl stop` would; the seconds that it took."""
        assert self._process is not None
        began = time.monotonic()
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        return time.monotonic() - began

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Nomad's command line, pointed at this agent; never fails by itself."""
        return subprocess.run(
            [str(self.binary), *arguments],
            env={**_inherited(), "NOMAD_ADDR": f"http://127.0.0.1:{self.ports.http}"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def plugin_processes(self) -> list[psutil.Process]:
        """The processes of our plugin that run from this agent's plugin_dir."""
        prefix, root = f"{self.plugin_dir}/", str(self.root)
        return [
            process
            for process, line in _processes()
            if any(word.startswith(prefix) for word in line) and _is_below(process, root)
        ]

    def the_plugin(self) -> psutil.Process:
        """The one plugin process that is left once the agent's three launches are over."""

        def only_one() -> psutil.Process | None:
            found = self.plugin_processes()
            return found[0] if len(found) == 1 else None

        return wait_until(
            "exactly one plugin process runs", only_one, seen=lambda: str(self.plugin_processes())
        )

    def forced_ends(self) -> list[str]:
        """Lines that say that our plugin outstayed the 2 s it has to end; Nomad's own may."""
        ours = re.compile(r"(device_mgr|plugin_loader)\b.*failed to exit gracefully")
        return [line for line in self.log.splitlines() if ours.search(line)]

    def log_tail(self) -> str:
        """The end of the agent's log, for a person who reads a failed test."""
        return "\n".join(self.log.splitlines()[-_LOG_LINES:])

    def close(self) -> None:
        """Ends all that this agent began; AssertionError if our plugin outlived it or panicked."""
        with ExitStack() as steps:
            steps.callback(self._remove)
            if self.running():
                steps.callback(self._assert_clean_end)
                steps.callback(self.stop)
                # It may have been launched by a test that failed right after.
                wait_until("the agent answers", self.api.answers, seen=self.log_tail)
                self.api.stop_all()

    def _assert_clean_end(self) -> None:
        wait_until(
            "no plugin process is left",
            lambda: not self.plugin_processes(),
            seen=lambda: str(self.plugin_processes()),
        )
        assert "panic" not in self.log, self.log_tail()

    def _remove(self) -> None:
        """Kills what is left, by pid, and removes the data; the log stays."""
        if self._process is not None and self.running():
            self._process.kill()
            self._process.wait(PATIENCE_S)
        for process in self._left_behind():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until("what the agent left behind is gone", lambda: not self._left_behind())
        for mount in _mounts_below(self.root):
            subprocess.run(["umount", "--lazy", mount], check=False)
        if not _mounts_below(self.root):  # never delete through a mount
            for directory in (self.data_dir, self._temporary):
                shutil.rmtree(directory, ignore_errors=True)

    def _left_behind(self) -> list[psutil.Process]:
        root = str(self.root)
        return [p for p, line in _processes() if _is_below(p, root) or f"{root}/" in " ".join(line)]

    def _write_configs(self, config: str | Path) -> list[Path]:
        given = config if isinstance(config, Path) else self.root / "given.hcl"
        if isinstance(config, str):
            given.write_text(config)
        programs = ("/bin/sh", "/usr/bin/env", "/bin/sleep")
        # Nomad 1.9 looks up the task's user inside the chroot.
        files = (*programs, *binaries.shared_objects(*programs), "/etc/passwd")
        # Nomad copies a symbolic link as one, without what it points to.
        chroot = "\n    ".join(f'"{os.path.realpath(path)}" = "{path}"' for path in files)
        overlay = self.root / "overlay.hcl"  # last, so that it wins
        overlay.write_text(
            _OVERLAY.format(
                data_dir=self.data_dir,
                plugin_dir=self.plugin_dir,
                ports=self.ports,
                chroot=chroot,
            )
            + ("" if self._dev else self._roles)
        )
        return [given, overlay]


def _free_ports() -> Ports:
    """Ports that nobody has now, and that no outgoing connection is given before Nomad binds."""
    with ExitStack() as open_at_once:  # else the same port could be given out twice
        numbers: list[int] = []
        while len(numbers) < len(Ports._fields):
            number = random.choice(_PORTS)
            if number in _given:
                continue  # to an agent that has not bound it yet
            with suppress(OSError):
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):  # serf wants both
                    listener = open_at_once.enter_context(socket.socket(type=kind))
                    listener.bind(("127.0.0.1", number))
                numbers.append(number)
    _given.update(numbers)
    return Ports(*numbers)


def _inherited() -> dict[str, str]:
    """What systemd would give: no HOME, and nothing of the person who runs the tests."""
    return {"PATH": os.environ["PATH"]}


def _processes() -> Iterator[tuple[psutil.Process, Sequence[str]]]:
    """Every process but zombies, with its command line."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            line = process.cmdline()
            if line:
                yield process, line


def _is_below(process: psutil.Process, root: str) -> bool:
    """Whether a process works in the agent's directories, as all do that an agent starts."""
    with suppress(psutil.Error):
        cwd = process.cwd()
        return cwd == root or cwd.startswith(f"{root}/")
    return False


def _mounts_below(directory: Path) -> list[str]:
    """Mount points below a directory, innermost first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    return sorted((p for p in points if p.startswith(f"{directory}/")), reverse=True)
