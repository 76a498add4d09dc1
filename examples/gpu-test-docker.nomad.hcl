# SPDX-License-Identifier: MPL-2.0
# Runs nvidia-smi once in a container that sees the GPU of its vGPU and no other.
# The client needs docker and the NVIDIA Container Toolkit. The agent: agent.hcl.

job "gpu-test-docker" {
  datacenters = ["dc1"]
  type        = "batch"

  group "smi" {
    task "smi" {
      driver = "docker"

      config {
        image   = "nvidia/cuda:12.9.1-base-ubuntu24.04"
        command = "nvidia-smi"
      }

      resources {
        cpu    = 50
        memory = 64

        device "letmutx/gpu" {
          count = 1

          # This model if one is free, else any other.
          affinity {
            attribute = "${device.attr.model}"
            value     = "NVIDIA A100-SXM4-80GB"
            weight    = 50
          }
        }
      }
    }
  }
}
