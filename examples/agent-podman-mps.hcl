# SPDX-License-Identifier: MPL-2.0
# As agent-podman.hcl, and GPUs are shared by MPS: each process of a task with k of the 4 vGPUs of a GPU
# is held to k/4 of its memory and of its SMs. A count is always of one GPU then. The job mounts the
# way to the MPS server itself (mps-podman.nomad.hcl).

plugin_dir = "/opt/nomad/data/plugins"

plugin "nvidia-vgpu" {
  config {
    vgpus   = 4
    sharing = "mps"

    mps {
      max_vgpus_per_task = 1
    }
  }
}

plugin "nomad-driver-podman" {
  config {
    volumes {
      enabled = true
    }
  }
}
