# SPDX-License-Identifier: MPL-2.0
# A Nomad client whose GPUs say how many of their vGPUs are free, for jobs that spread over them or pack
# them: spread.nomad.hcl, pack.nomad.hcl. Each change costs the servers something: docs/performance.md.

plugin_dir = "/opt/nomad/data/plugins"

plugin "nvidia-vgpu" {
  config {
    vgpus = 4

    # What is free is told of device groups of one GPU.
    group_by     = "gpu"
    publish_load = true
  }
}

plugin "raw_exec" {
  config {
    enabled = true
  }
}
