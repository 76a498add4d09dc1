# SPDX-License-Identifier: MPL-2.0
# A container that shares a GPU under MPS. The job mounts the pipe directory of its GPU's daemon itself,
# so that the task keeps it when it restarts; docker's `volumes` must be enabled. The agent: agent-mps.hcl.

job "mps-docker" {
  datacenters = ["dc1"]
  type        = "batch"

  group "smi" {
    task "smi" {
      driver = "docker"

      config {
        image   = "nvidia/cuda:12.9.1-base-ubuntu24.04"
        command = "nvidia-smi"

        # Nomad replaces the variable. The directory above it is the plugin's own: mount no more.
        volumes = ["${CUDA_MPS_PIPE_DIRECTORY}:${CUDA_MPS_PIPE_DIRECTORY}"]
      }

      resources {
        cpu    = 50
        memory = 64

        device "letmutx/gpu" {
          count = 2

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
