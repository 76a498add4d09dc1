# SPDX-License-Identifier: MPL-2.0
"""Tables for people."""
