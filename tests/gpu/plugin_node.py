# SPDX-License-Identifier: MPL-2.0
"""The installed plugin under the built-in host, its groups followed while an experiment runs."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grpc

from nomad_nvidia_vgpu.cookie import COOKIE_KEY, COOKIE_VALUE, PROTOCOL_VERSION
from nomad_nvidia_vgpu.device.fingerprint import DeviceGroup
from nomad_nvidia_vgpu.goplugin.handshake import Handshake
from nomad_nvidia_vgpu.goplugin.host import LogLine
from nomad_nvidia_vgpu.rpc.client import Host

PROGRAM = Path(sys.executable).with_name("nvidia-vgpu")
HANDSHAKE = Handshake(COOKIE_KEY, COOKIE_VALUE, PROTOCOL_VERSION)
HEALTHY_S = 25.0

Groups = tuple[DeviceGroup, ...]


def plugin_config(
    vgpus: int, ignored: Sequence[str], mps: Mapping[str, object]
) -> dict[str, object]:
    """A config for one GPU shared by MPS, looked at each second."""
    return {
        "vgpus": vgpus,
        "sharing": "mps",
        "fingerprint_period": "1s",
        "ignored_gpu_ids": list(ignored),
        "visible_devices_envs": ["NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"],
        "log_level": "debug",
        "mps": dict(mps),
    }


class Plugin:
    """A running plugin."""

    def __init__(
        self,
        config: Mapping[str, object],
        environment: Mapping[str, str],
        log: Callable[[str], None],
    ) -> None:
        """Starts it and follows its fingerprint."""
        self._log = log
        self._changed = threading.Condition()
        self._groups: Groups = ()
        log(f"plugin: {json.dumps(config)}")
        self.host = Host([str(PROGRAM)], HANDSHAKE, environment=environment, on_log=self._hear)
        self.host.set_config(config)
        self._stream = self.host.fingerprints()
        threading.Thread(target=self._follow, daemon=True).start()

    def until_healthy(self, timeout_s: float = HEALTHY_S) -> DeviceGroup:
        """The group once all its vGPUs are healthy; TimeoutError with what is wrong."""
        return self.until(lambda group: not health(group), timeout_s)

    def until(self, wanted: Callable[[DeviceGroup], bool], timeout_s: float) -> DeviceGroup:
        """The group once it is as wanted; TimeoutError with what it says instead."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not (self._groups and wanted(self._groups[0])):
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    text = health(self._groups[0]) if self._groups else "nothing published"
                    raise TimeoutError(f"after {timeout_s:g} s the plugin says {text!r}")
            return self._groups[0]

    def task(self, granted: int) -> dict[str, str]:
        """The environment of a task with so many vGPUs; Refused."""
        group = self.until(lambda _: True, 1.0)
        return dict(self.host.reserve([i.id for i in group.instances[:granted]]).envs)

    def kill(self) -> None:
        """SIGKILL, as when the machine runs out of memory."""
        self.host.plugin.process.send_signal(signal.SIGKILL)
        self.host.plugin.process.wait()
        self.stop()

    def stop(self) -> None:
        """Stops it as Nomad does, and closes what is left of it."""
        with contextlib.suppress(grpc.RpcError, OSError, ValueError):
            self._stream.cancel()
            self.host.stop()

    def _hear(self, line: LogLine) -> None:
        self._log(f"plugin: {line.level}: {line.message}")

    def _follow(self) -> None:
        with contextlib.suppress(grpc.RpcError, StopIteration):
            for groups in self._stream:
                with self._changed:
                    self._groups = groups
                    self._changed.notify_all()
                for group in groups:
                    isolation = group.attributes["memory_isolation"].value
                    self._log(f"plugin: {group.name}: {isolation}: {health(group) or 'healthy'}")


def health(group: DeviceGroup) -> str:
    """What is wrong with a group; empty: nothing."""
    texts = (i.health_description or "unhealthy" for i in group.instances if not i.healthy)
    return "; ".join(dict.fromkeys(texts))
