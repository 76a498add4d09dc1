# SPDX-License-Identifier: MPL-2.0
# A Nomad client that offers the MIG devices of its GPUs, each to one task at a time: the hardware
# divides memory and compute. The MIG devices are made before the agent starts:
#
#   nvidia-smi -i 0 -mig 1
#   nvidia-smi mig -i 0 -cgi 3g.20gb,3g.20gb -C

plugin_dir = "/opt/nomad/data/plugins"

plugin "nvidia-vgpu" {
  config {
    # More would let tasks share a MIG device by agreement, as they share a GPU.
    vgpus = 1

    # CUDA reads the second one; tasks of raw_exec and exec need it.
    visible_devices_envs = ["NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"]
  }
}

plugin "raw_exec" {
  config {
    enabled = true
  }
}
