# SPDX-License-Identifier: MPL-2.0
"""What is imported before the plugin serves, and what each package costs: `bench imports`."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from statistics import median

from bench.environment import Installation, clean_environment

_RUNS = 15
_SHOWN = 30
_SERVE = "import gc; gc.disable(); import nomad_nvidia_vgpu.__main__, nomad_nvidia_vgpu.serve"


def show(installation: Installation) -> None:
    """Prints milliseconds per package and per module, each without what it imports in turn."""
    modules: dict[str, list[float]] = defaultdict(list)
    for _ in range(_RUNS):
        for name, self_us in _run(installation).items():
            modules[name].append(self_us / 1e3)
    cost = {name: median(times) for name, times in modules.items()}
    packages: dict[str, float] = defaultdict(float)
    for name, ms in cost.items():
        packages[name.split(".", 1)[0]] += ms
    print(f"{sum(cost.values()):8.2f}  all {len(cost)} modules (tracing itself costs some)")
    for title, costs in (("package", packages), ("module", cost)):
        print(f"\n      ms  {title}")
        for name, ms in sorted(costs.items(), key=lambda item: -item[1])[:_SHOWN]:
            print(f"{ms:8.2f}  {name}")


def _run(installation: Installation) -> dict[str, int]:
    done = subprocess.run(
        [str(installation.python), "-X", "importtime", "-c", _SERVE],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (line.removeprefix("import time:") for line in done.stderr.splitlines())
    fields = (line.split("|") for line in lines if "[us]" not in line and line.count("|") == 2)
    return {name.strip(): int(own) for own, _cumulative, name in fields}
