# SPDX-License-Identifier: MPL-2.0
# To try the plugin on a machine without a GPU: three simulated ones, of two models.
# `make demo` starts a Nomad agent with this file.

plugin "nvidia-vgpu" {
  config {
    vgpus    = 16
    simulate = ["a100-sxm4-80gb:2", "t4"]
  }
}

plugin "raw_exec" {
  config {
    enabled = true
  }
}
