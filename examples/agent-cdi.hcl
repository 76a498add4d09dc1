# SPDX-License-Identifier: MPL-2.0
# A Nomad client that hands out the device files and libraries of its GPUs itself: for exec, and for
# docker without NVIDIA's container runtime. The node's CDI specification says which they are:
#
#   nvidia-ctk cdi generate --device-name-strategy=uuid --output=/etc/cdi/nvidia.yaml
#
# The toolkit 1.18 and newer writes one at each boot, to /var/run/cdi.

plugin_dir = "/opt/nomad/data/plugins"

plugin "nvidia-vgpu" {
  config {
    vgpus        = 8
    device_nodes = "cdi"

    # Tasks find their GPUs in CUDA_VISIBLE_DEVICES: with NVIDIA_VISIBLE_DEVICES docker tasks would
    # need NVIDIA's container runtime.
  }
}
