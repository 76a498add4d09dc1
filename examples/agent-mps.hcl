# SPDX-License-Identifier: MPL-2.0
# A Nomad client that shares its GPUs by MPS: each process of a task with k of the 4 vGPUs of a GPU
# is held to k/4 of its memory and of its SMs.

plugin_dir = "/opt/nomad/data/plugins"

plugin "nvidia-vgpu" {
  config {
    vgpus   = 4
    sharing = "mps"

    # CUDA reads the second one; tasks of raw_exec and exec need it.
    visible_devices_envs = ["NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"]

    mps {
      # Nobody gets more than half a GPU, whatever a task does to its environment.
      max_vgpus_per_task = 2
    }
  }
}

plugin "docker" {
  config {
    volumes {
      enabled = true
    }
  }
}
