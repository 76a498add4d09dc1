# SPDX-License-Identifier: MPL-2.0
"""Who uses what, and who is ended."""
