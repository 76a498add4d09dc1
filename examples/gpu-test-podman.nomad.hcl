# SPDX-License-Identifier: MPL-2.0
# Runs nvidia-smi once in a podman container that sees the GPU of its vGPU and no other.
# The agent: agent-podman.hcl.

job "gpu-test-podman" {
  datacenters = ["dc1"]
  type        = "batch"

  group "smi" {
    task "smi" {
      driver = "podman"

      config {
        image   = "docker.io/nvidia/cuda:12.9.1-base-ubuntu24.04"
        command = "nvidia-smi"

        # Nomad replaces the variable by the UUID of the task's GPU.
        devices = ["nvidia.com/gpu=${NVIDIA_VISIBLE_DEVICES}"]
      }

      resources {
        cpu    = 50
        memory = 64

        device "letmutx/gpu" {
          count = 1
        }
      }
    }
  }
}
