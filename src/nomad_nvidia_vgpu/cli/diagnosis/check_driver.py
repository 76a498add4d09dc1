# SPDX-License-Identifier: MPL-2.0
"""The driver: its library, and its kernel module."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Verdict, error, error_of, ok, warning
from nomad_nvidia_vgpu.cli.diagnosis.running import LIBRARIES

_MODULE_VERSION = re.compile(r"Kernel Module\b.*?\s(\d+\.\d+(?:\.\d+)*)\s")
_FILE_VERSION = re.compile(r"\.so\.(\d+\.\d+(?:\.\d+)*)$")


def library(facts: Facts) -> Iterator[Verdict]:
    """Whether libnvidia-ml.so.1 can be loaded and used, and which file it is."""
    look = facts.driver
    if look.simulated:
        yield ok("simulated GPUs need no driver")
    elif look.problem:
        loaded = f" ({look.library} is loaded)" if look.library else ""
        said = error_of(look.problem)
        yield said._replace(sentence=f"{said.sentence}{loaded}")
    else:
        version = f", driver {look.version}" if look.version else ""
        yield ok(f"{look.library or 'libnvidia-ml.so.1'} works{version}")
    if not look.simulated:
        yield from _of_the_agent(facts)


def _of_the_agent(facts: Facts) -> Iterator[Verdict]:
    """What the plugin that runs has loaded, or would; nothing where it is not seen."""
    own, running = facts.driver.library, facts.running
    if running.plugin is not None:
        pid, loaded = running.plugin
        if loaded == own and loaded is not None:
            yield ok(f"the plugin that runs (pid {pid}) has loaded {loaded}")
        elif loaded != own and facts.config.enabled and facts.config.configured:
            yield warning(
                f"the plugin that runs (pid {pid}) has loaded {loaded or 'no libnvidia-ml.so.1'},"
                f" and this command {own or 'none'}, so what is said here of GPUs may not be true"
                " of it",
                f"restart the agent if the driver is new, and look at {LIBRARIES} of its unit",
            )
        return
    agent, ours = running.agent, facts.node.environment.get(LIBRARIES, "")
    if agent is not None and agent.libraries not in (None, ours):
        yield warning(
            f"the Nomad agent (pid {agent.pid}) has {LIBRARIES}={agent.libraries!r}, and this"
            f" command {ours!r}, so the plugin may load another library",
            f"look at {LIBRARIES} of the agent's unit, and run this command with the same",
        )


def module(facts: Facts) -> Iterator[Verdict]:
    """Whether the kernel module is loaded and of the library's version."""
    look = facts.driver
    if look.simulated:
        yield ok("simulated GPUs need no kernel module")
        return
    try:
        text = (facts.node.proc / "driver/nvidia/version").read_text()
    except OSError:
        if look.problem and look.library is None:
            return  # without a driver there is no module to load
        if look.problem:
            yield error("NVIDIA's kernel module is not loaded", "modprobe nvidia, then see dmesg")
        else:
            yield ok("the driver works, and its kernel module does not tell its version here")
        return
    match = _MODULE_VERSION.search(text)
    if match is None:
        yield warning("/proc/driver/nvidia/version names no version", "see dmesg")
        return
    of_file = _FILE_VERSION.search(look.library or "")
    own = look.version or (of_file[1] if of_file else None)
    if own is not None and own != match[1]:
        yield error(
            f"the kernel module is of driver {match[1]} and the library of {own}",
            "the driver was upgraded in place: reload the kernel module or reboot, then restart"
            " the Nomad agent",
        )
    else:
        yield ok(f"the kernel module is of driver {match[1]}")
