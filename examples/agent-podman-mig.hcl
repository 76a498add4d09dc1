# SPDX-License-Identifier: MPL-2.0
# As agent-podman.hcl, on a node with MIG devices (agent-mig.hcl says how they are made): each is offered
# to one task at a time. The CDI specification names them by UUID too, once they are there.

plugin_dir = "/opt/nomad/data/plugins"

plugin "nvidia-vgpu" {
  config {
    # More would let tasks share a MIG device by agreement, as they share a GPU.
    vgpus = 1
  }
}

plugin "nomad-driver-podman" {
  config {
    volumes {
      enabled = true
    }
  }
}
