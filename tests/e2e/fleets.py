# SPDX-License-Identifier: MPL-2.0
"""Three clients with different simulated GPUs, for the tests of a cluster and its benchmark."""

from e2e.conftest import plugin_block

FLEETS = {
    "big": 'vgpu_memory = "10GiB"\n simulate = ["a100-sxm4-80gb:8"]',
    "small": 'vgpus = 42\n simulate = ["l4:4", "t4"]\n gpu "*T4*" {\n vgpus = 30\n }',
    "parts": 'vgpus = 8\n simulate = ["h100-80gb-hbm3:2:3g.40gb,2g.20gb,1g.10gb,1g.10gb"]',
}
"""The options of each client, by the name of its node."""

VGPUS = {"big": 8 * 8, "small": 4 * 42 + 30, "parts": 2 * 4 * 8}


def configs() -> dict[str, str]:
    """The configuration of each client."""
    return {name: plugin_block(options) for name, options in FLEETS.items()}
