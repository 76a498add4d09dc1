# SPDX-License-Identifier: MPL-2.0
"""Nomad's three calls - fingerprint, reserve, stats - in our own types."""
