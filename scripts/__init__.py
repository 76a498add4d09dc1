# SPDX-License-Identifier: MPL-2.0
"""Programs of the repository, run by the Makefile."""
