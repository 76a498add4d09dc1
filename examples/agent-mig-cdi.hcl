# SPDX-License-Identifier: MPL-2.0
# As agent-cdi.hcl, on a node with MIG devices (agent-mig.hcl says how they are made): each is offered
# to one task at a time, with its device files and those of no other.

plugin_dir = "/opt/nomad/data/plugins"

plugin "nvidia-vgpu" {
  config {
    # More would let tasks share a MIG device by agreement, as they share a GPU.
    vgpus        = 1
    device_nodes = "cdi"
  }
}
