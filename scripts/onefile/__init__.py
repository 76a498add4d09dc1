# SPDX-License-Identifier: MPL-2.0
"""The single executable file for `plugin_dir`: docs/packaging.md."""
