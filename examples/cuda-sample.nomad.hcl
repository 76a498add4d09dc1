# SPDX-License-Identifier: MPL-2.0
# Runs NVIDIA's vectorAdd sample on one vGPU. Where CUDA works in the container, the last two lines of its log are
# "Test PASSED" and "Done"; else the task fails and its log says why. A simulated GPU cannot run it. Not run here: this
# project has had no GPU for it.
# The client needs docker and the NVIDIA Container Toolkit. The agent: agent.hcl.

job "cuda-sample" {
  datacenters = ["dc1"]
  type        = "batch"

  group "sample" {
    # A failure stays visible: nothing is tried again.
    restart {
      attempts = 0
      mode     = "fail"
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "vectoradd" {
      driver = "docker"

      config {
        image = "nvcr.io/nvidia/k8s/cuda-sample:vectoradd-cuda12.5.0"
      }

      resources {
        cpu    = 100
        memory = 256

        device "letmutx/gpu" {
          count = 1
        }
      }
    }
  }
}
