# SPDX-License-Identifier: MPL-2.0
# Runs once in a chroot that has the device files of its MIG device and of no other.
# The agent: agent-mig-cdi.hcl.

job "mig-exec" {
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
