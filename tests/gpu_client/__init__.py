# SPDX-License-Identifier: MPL-2.0
"""The experiments of tests/gpu, tried without a GPU."""
