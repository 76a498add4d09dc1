# SPDX-License-Identifier: MPL-2.0
"""How a GPU becomes vGPUs. Pure: no NVML, no gRPC, no clock."""
