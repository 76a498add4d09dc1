# SPDX-License-Identifier: MPL-2.0
"""The names of the variables that a task is given, however its GPUs are shared."""

from __future__ import annotations

IDS_ENV = "NVIDIA_VGPU_IDS"
MEMORY_ENV = "NVIDIA_VGPU_MEMORY_MIB"
BUDGETS_ENV = "NVIDIA_VGPU_BUDGETS"
GROUP_ENV = "NVIDIA_VGPU_GROUP"
"""By which Nomad counts the vGPUs, so that it is known later whether it still does."""

RUNTIME_ENV = "NVIDIA_VISIBLE_DEVICES"
"""As soon as a task has it, Nomad's docker driver demands NVIDIA's container runtime."""
CUDA_ENV = "CUDA_VISIBLE_DEVICES"
