# SPDX-License-Identifier: MPL-2.0
"""NVIDIA's MPS: limits, daemons, and what is in force."""
