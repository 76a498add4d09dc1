# SPDX-License-Identifier: MPL-2.0
"""HashiCorp's go-plugin in Python: the plugin's side (`server`) and the host's side (`host`).

Knows neither GPUs nor Nomad, and imports nothing from the rest of this package.
"""
