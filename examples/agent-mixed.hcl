# SPDX-License-Identifier: MPL-2.0
# A Nomad client with different GPUs. What it makes of the GPUs of a node, and why, says
#
#   nvidia-vgpu plan --config agent-mixed.hcl

plugin_dir = "/opt/nomad/data/plugins"

plugin "nvidia-vgpu" {
  config {
    # As many vGPUs as fit on each GPU, none smaller than this.
    vgpu_memory = "10GiB"

    # Two tasks on each small card.
    gpu "Tesla T4" {
      vgpus = 2
    }

    # All vGPUs that a task asks for are of one A100, never of two.
    gpu "*A100*" {
      group_by = "gpu"
    }

    # The card in this slot is for one task at a time, in a device group of that name.
    gpu "0000:3b:00.0" {
      vgpus = 1
      name  = "whole-l40s"
    }
  }
}

plugin "raw_exec" {
  config {
    enabled = true
  }
}
