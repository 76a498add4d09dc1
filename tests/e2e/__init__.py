# SPDX-License-Identifier: MPL-2.0
"""The plugin in real Nomad agents, with real jobs; only the GPUs are simulated."""
