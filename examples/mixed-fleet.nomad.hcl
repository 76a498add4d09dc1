# SPDX-License-Identifier: MPL-2.0
# Places tasks by what a share is, not by where it is: each has at least 10 GiB, on an A100 while
# one has room. Works with every way in which nodes divide and group their GPUs. The agent:
# agent-mixed.hcl, or any other.

job "mixed-fleet" {
  datacenters = ["dc1"]
  type        = "service"

  group "worker" {
    count = 2

    # Without a spread or an affinity of the group, Nomad's scheduler looks at a few nodes only, and
    # may not meet the one that the device affinity below would choose.
    spread {
      attribute = "${node.unique.id}"
    }

    task "worker" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "env | grep '^NVIDIA_' | sort; exec sleep 3600"]
      }

      resources {
        cpu    = 50
        memory = 64

        # Not "letmutx/gpu/NVIDIA A100…": the group's name tells more where GPUs differ.
        device "letmutx/gpu" {
          constraint {
            attribute = "${device.attr.vgpu_memory}"
            operator  = ">="
            value     = "10 GiB"
          }

          affinity {
            attribute = "${device.attr.model}"
            value     = "NVIDIA A100-SXM4-40GB"
            weight    = 50
          }
        }
      }
    }
  }
}
