# SPDX-License-Identifier: MPL-2.0
"""Which task uses which GPU, and which tasks are ended."""
