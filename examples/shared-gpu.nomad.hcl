# SPDX-License-Identifier: MPL-2.0
# Two tasks that share one GPU. There is one Tesla T4, so both get their vGPU from it; each prints what
# it was given, and stays. The agent: agent-simulated.hcl.

job "shared-gpu" {
  datacenters = ["dc1"]
  type        = "service"

  group "sharer" {
    count = 2

    task "sharer" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "env | grep '^NVIDIA_' | sort; exec sleep 3600"]
      }

      resources {
        cpu    = 50
        memory = 64

        device "letmutx/gpu" {
          constraint {
            attribute = "${device.attr.model}"
            value     = "Tesla T4"
          }

          # A share that is large enough for this task: memory divided by vgpus.
          constraint {
            attribute = "${device.attr.vgpu_memory}"
            operator  = ">="
            value     = "512 MiB"
          }
        }
      }
    }
  }
}
