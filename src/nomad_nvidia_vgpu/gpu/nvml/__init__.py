# SPDX-License-Identifier: MPL-2.0
"""The only place that knows pynvml."""
