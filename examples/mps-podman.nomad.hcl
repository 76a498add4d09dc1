# SPDX-License-Identifier: MPL-2.0
# A podman container that shares a GPU under MPS. It keeps its mount when it restarts, as the job
# makes it. The agent: agent-podman.hcl with `sharing = "mps"`.

job "mps-podman" {
  type = "batch"

  group "smi" {
    task "smi" {
      driver = "podman"

      config {
        image   = "docker.io/nvidia/cuda:12.9.1-base-ubuntu24.04"
        command = "nvidia-smi"

        # Nomad replaces the variable by the UUID of the task's GPU.
        devices = ["nvidia.com/gpu=${NVIDIA_VISIBLE_DEVICES}"]

        # The same path inside: CUDA_MPS_PIPE_DIRECTORY names a directory in it.
        volumes = ["/run/nvidia-vgpu/mps:/run/nvidia-vgpu/mps"]
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
