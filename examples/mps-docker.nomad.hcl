# SPDX-License-Identifier: MPL-2.0
# A container that shares a GPU under MPS. The job mounts the directory of the node's MPS daemons
# itself, so that the task keeps it when it restarts; docker's `volumes` must be enabled in the agent.

job "mps-docker" {
  type = "batch"

  group "smi" {
    task "smi" {
      driver = "docker"

      config {
        image   = "nvidia/cuda:12.9.1-base-ubuntu24.04"
        command = "nvidia-smi"

        # The same path inside: CUDA_MPS_PIPE_DIRECTORY names a directory in it.
        volumes = ["/run/nvidia-vgpu/mps:/run/nvidia-vgpu/mps"]
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
