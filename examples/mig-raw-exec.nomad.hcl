# SPDX-License-Identifier: MPL-2.0
# Runs once on a MIG device of its own. CUDA_VISIBLE_DEVICES names it; nothing keeps a process that
# ignores the variable from the others. The agent: agent-mig.hcl.

job "mig-raw-exec" {
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

          # Only where the hardware holds it, and nobody shares it.
          constraint {
            attribute = "${device.attr.memory_isolation}"
            value     = "mig"
          }

          # And only this profile.
          constraint {
            attribute = "${device.attr.mig}"
            value     = "3g.20gb"
          }
        }
      }
    }
  }
}
