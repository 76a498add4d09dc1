# SPDX-License-Identifier: MPL-2.0
# Runs once in a chroot that has the device files and libraries of its GPU, prints what the task was
# given, and the GPU. The agent: agent-cdi.hcl.

job "gpu-test-exec" {
  datacenters = ["dc1"]
  type        = "batch"

  group "smi" {
    task "smi" {
      driver = "exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "env; nvidia-smi -L || true"]
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
