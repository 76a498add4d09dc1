# SPDX-License-Identifier: MPL-2.0
"""Figures for Prometheus."""
