# SPDX-License-Identifier: MPL-2.0
# Shares a GPU under MPS in a chroot, into which the agent mounts the way to the GPU's MPS server.
# The agent: agent-mps-cdi.hcl.

job "mps-exec" {
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
