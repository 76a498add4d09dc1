# SPDX-License-Identifier: MPL-2.0
"""What the operator asked for: the options, their schema for Nomad, and their decoder."""
