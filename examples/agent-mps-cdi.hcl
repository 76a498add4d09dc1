# SPDX-License-Identifier: MPL-2.0
# As agent-cdi.hcl, and GPUs are shared by MPS: each process of a task with k of the 4 vGPUs of a GPU
# is held to k/4 of its memory and of its SMs. The way to the MPS server is mounted with the rest.

plugin_dir = "/opt/nomad/data/plugins"

plugin "nvidia-vgpu" {
  config {
    vgpus        = 4
    sharing      = "mps"
    device_nodes = "cdi"

    mps {
      max_vgpus_per_task = 1
    }
  }
}
