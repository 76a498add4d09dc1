# SPDX-License-Identifier: MPL-2.0
# Runs nvidia-smi once in a container that sees its MIG device and no other.
# The agent: agent-mig.hcl; docker needs the NVIDIA Container Toolkit.

job "mig-docker" {
  datacenters = ["dc1"]
  type        = "batch"

  group "smi" {
    task "smi" {
      driver = "docker"

      config {
        image   = "nvidia/cuda:12.9.1-base-ubuntu24.04"
        command = "nvidia-smi"
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
