# SPDX-License-Identifier: MPL-2.0
"""The experiments in the order of their importance, and one of them as a process of its own.

`python -m gpu.experiment NAME SETUP DIRECTORY` is how `gpu.measure` runs one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gpu.experiments import compute, control, faults, machine, memory, users
from gpu.lab import Lab, Setup


class Experiment(NamedTuple):
    """One of them."""

    run: Callable[[Lab], None]
    heading: str
    timeout_s: float


MACHINE, SHARES, LIVES, REST = (
    "The machine",
    "Shares and throughput",
    "What tasks live through",
    "Details",
)

EXPERIMENTS = {
    "machine": Experiment(machine.machine, MACHINE, 90),
    "recovery_action": Experiment(machine.recovery_action, MACHINE, 20),
    "cgroup_limits": Experiment(machine.cgroup_limits, MACHINE, 20),
    "language": Experiment(control.language, REST, 60),
    "shares": Experiment(memory.shares, SHARES, 120),
    "percentage": Experiment(compute.percentage, SHARES, 90),
    "throughput": Experiment(compute.throughput, SHARES, 160),
    "plugin_killed": Experiment(faults.plugin_killed, LIVES, 80),
    "two_users": Experiment(users.two_users, LIVES, 70),
    "killed_client": Experiment(faults.killed_client, LIVES, 60),
    "exclusive_process": Experiment(faults.exclusive_process, LIVES, 60),
    "without_daemon": Experiment(users.without_daemon, LIVES, 30),
    "default_limit_keys": Experiment(control.default_limit_keys, REST, 50),
    "client_limit_keys": Experiment(control.client_limit_keys, REST, 70),
    "meters": Experiment(users.meters, REST, 50),
    "fault": Experiment(faults.fault, LIVES, 80),
    "fault_and_plugin": Experiment(faults.fault_and_plugin, LIVES, 80),
    "namespaces": Experiment(users.namespaces, REST, 60),
    "smallest": Experiment(memory.smallest, REST, 70),
    "driver_calls": Experiment(machine.driver_calls, REST, 40),
    "daemon_killed": Experiment(faults.daemon_killed, LIVES, 80),
    "features": Experiment(control.features, REST, 60),
    "client_limit": Experiment(users.client_limit, REST, 70),
    "saturated_sharing": Experiment(compute.saturated_sharing, SHARES, 40),
}


def main() -> int:
    """Runs one experiment; the exit status is 0 whatever it finds."""
    name, setup_path, directory = sys.argv[1:]
    facts = json.loads(Path(setup_path).read_text())
    setup = Setup(**{**facts, "others": tuple(facts["others"])})
    with Lab(setup, Path(directory)) as lab, lab.part(f"The experiment {name!r}"):
        EXPERIMENTS[name].run(lab)
    return 0


if __name__ == "__main__":
    sys.exit(main())
