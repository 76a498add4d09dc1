# SPDX-License-Identifier: MPL-2.0
"""The figures of docs/performance.md, measured on the installed program: `python -m bench`."""
