# SPDX-License-Identifier: MPL-2.0
# A podman container that shares a GPU under MPS. It keeps its mount when it restarts, as the job
# makes it. The agent: agent-podman-mps.hcl.

job "mps-podman" {
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

        # The directory above it is the plugin's own: mount no more.
        volumes = ["${CUDA_MPS_PIPE_DIRECTORY}:${CUDA_MPS_PIPE_DIRECTORY}"]
      }

      resources {
        cpu    = 50
        memory = 64

        device "letmutx/gpu" {
          count = 1

          # Only where each process is held to its part of the memory.
          constraint {
            attribute = "${device.attr.memory_isolation}"
            value     = "mps"
          }
        }
      }
    }
  }
}
