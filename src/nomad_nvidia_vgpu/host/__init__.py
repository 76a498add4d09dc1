# SPDX-License-Identifier: MPL-2.0
"""What the kernel says of processes and files."""
