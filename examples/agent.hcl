# SPDX-License-Identifier: MPL-2.0
# A Nomad client that shares its NVIDIA GPUs: each is divided into 16 vGPUs.
# Put it into /etc/nomad.d, and the plugin into plugin_dir by
#
#   nvidia-vgpu install

plugin_dir = "/opt/nomad/data/plugins"

# The label must equal the name of the file in plugin_dir.
plugin "nvidia-vgpu" {
  config {
    vgpus              = 16
    fingerprint_period = "5s"

    # GPUs that Nomad must not offer, as `nvidia-smi -L` prints their UUIDs.
    ignored_gpu_ids = ["GPU-00000000-0000-0000-0000-000000000001"]

    # CUDA reads the second one; tasks of raw_exec and exec need it.
    visible_devices_envs = ["NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"]
  }
}

plugin "raw_exec" {
  config {
    enabled = true
  }
}
