# SPDX-License-Identifier: MPL-2.0
# A Nomad client whose podman tasks get GPUs. The podman driver passes on the variables and mounts of
# a reservation, not its device files: podman takes those from the node's CDI specification, where the
# job names its GPU (gpu-test-podman.nomad.hcl). The specification must name GPUs by UUID:
#
#   nvidia-ctk cdi generate --device-name-strategy=uuid --output=/etc/cdi/nvidia.yaml

plugin_dir = "/opt/nomad/data/plugins"

plugin "nvidia-vgpu" {
  config {
    vgpus = 8

    # Whatever its count, a job gets vGPUs of one GPU: it can name no more to podman.
    group_by = "gpu"
  }
}

plugin "nomad-driver-podman" {
  config {
    volumes {
      enabled = true
    }
  }
}
