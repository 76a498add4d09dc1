# SPDX-License-Identifier: MPL-2.0
"""The command line, for people: one module per verb."""
