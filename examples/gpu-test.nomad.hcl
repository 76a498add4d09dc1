# SPDX-License-Identifier: MPL-2.0
# Runs once on one vGPU, shows what the task was given, and the GPU itself where there is one.
# The agent: agent.hcl. For the same with docker: gpu-test-docker.nomad.hcl

job "gpu-test" {
  datacenters = ["dc1"]
  type        = "batch"

  group "smi" {
    task "smi" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "env | grep -E '^(NVIDIA|CUDA)_' | sort; nvidia-smi -L 2>/dev/null || true"]
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
