# SPDX-License-Identifier: MPL-2.0
# Takes a vGPU of the GPU on which fewest are free, so that whole GPUs stay free for large jobs.
# The agent: agent-load.hcl.

job "pack" {
  datacenters = ["dc1"]
  type        = "service"

  group "worker" {
    task "worker" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "env | grep '^NVIDIA_' | sort; exec sleep 3600"]
      }

      resources {
        cpu    = 50
        memory = 64

        device "letmutx/gpu" {
          affinity {
            attribute = "${device.attr.unique.free_vgpus}"
            operator  = "<="
            value     = "1"
            weight    = 40
          }

          affinity {
            attribute = "${device.attr.unique.free_vgpus}"
            operator  = "<="
            value     = "2"
            weight    = 30
          }

          affinity {
            attribute = "${device.attr.unique.free_vgpus}"
            operator  = "<="
            value     = "3"
            weight    = 20
          }
        }
      }
    }
  }
}
