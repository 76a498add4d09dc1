# SPDX-License-Identifier: MPL-2.0
# Shares a GPU under MPS without a container, and prints the limits that hold each of its processes.
# The agent: agent-mps.hcl.

job "mps-raw-exec" {
  datacenters = ["dc1"]
  type        = "batch"

  group "smi" {
    task "smi" {
      driver = "raw_exec"

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
