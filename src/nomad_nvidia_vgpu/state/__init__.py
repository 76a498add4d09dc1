# SPDX-License-Identifier: MPL-2.0
"""What threads share, and nothing else."""
