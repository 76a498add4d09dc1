# SPDX-License-Identifier: MPL-2.0
# Takes a vGPU of the GPU on which most are free. With more than four vGPUs for each GPU it has more
# steps: any affinity that a GPU with more free vGPUs meets beside those of the others will do.
# The agent: agent-load.hcl.

job "spread" {
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
            operator  = ">="
            value     = "4"
            weight    = 40
          }

          affinity {
            attribute = "${device.attr.unique.free_vgpus}"
            operator  = ">="
            value     = "3"
            weight    = 30
          }

          affinity {
            attribute = "${device.attr.unique.free_vgpus}"
            operator  = ">="
            value     = "2"
            weight    = 20
          }

          affinity {
            attribute = "${device.attr.unique.free_vgpus}"
            operator  = ">="
            value     = "1"
            weight    = 10
          }
        }
      }
    }
  }
}
