# SPDX-License-Identifier: MPL-2.0
"""What hardware is here: GPUs through NVML or simulated, and the threads that watch them."""
