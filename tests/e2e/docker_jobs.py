# SPDX-License-Identifier: MPL-2.0
"""Jobs for docker as users write them: with Nomad's defaults, unless a test is about something else."""

from e2e.docker_host import GPU_LIST, IMAGE
from e2e.jobs import END_OF_ENVIRONMENT

README_JOB = """
job "gpu-test" {
  datacenters = ["dc1"]
  type = "batch"

  group "smi" {
    task "smi" {
      driver = "docker"

      config {
        image = "nvidia/cuda:11.0-base"
        command = "nvidia-smi"
      }

      resources {
        device "letmutx/gpu" {
          count = 1

          # Add an affinity for a particular model
          affinity {
            attribute = "${device.model}"
            value     = "Tesla K80"
            weight    = 50
          }
        }
      }
    }
  }
}
"""
"""The job in the README of letmutx/nomad-nvidia-vgpu-plugin, word for word."""

LOOK = f"{GPU_LIST}; env; echo {END_OF_ENVIRONMENT}"
"""What a container says of its GPUs and its environment."""
REST = "trap exit TERM; sleep 3600 & wait"
"""Stays until Nomad stops the task: the first process of a container ignores SIGTERM by itself."""
STAY = f"{LOOK}; {REST}"

_JOB = """
job "{name}" {{
  type = "{kind}"

  group "work" {{
    count = {count}
    {group}

    task "main" {{
      driver = "docker"
      config {{
        image   = "{image}"
        command = "sh"
        args    = ["-c", "{script}"]
        {config}
      }}
      {task}
      resources {{
        cpu    = 20
        memory = 24
        {device}
      }}
    }}
  }}
}}
"""


def docker_job(  # noqa: PLR0913  each is a part of the job that a test is about
    name: str,
    device: str,
    script: str = LOOK,
    *,
    count: int = 1,
    config: str = "",
    task: str = "",
    group: str = "",
) -> str:
    """A job whose containers run `script`: a service if it stays, else a batch job.

    `config`, `task` and `group` are HCL for these blocks.
    """
    return _JOB.format(
        name=name,
        kind="service" if "sleep" in script else "batch",
        count=count,
        image=IMAGE,
        script=script.replace('"', '\\"'),
        config=config,
        task=task,
        group=group,
        device=device,
    )


def docker_plugin(socket: object, more: str = "") -> str:
    """The agent's `plugin` block for Nomad's docker driver, which keeps containers for `DockerHost.output`."""
    return f"""
plugin "docker" {{
  config {{
    endpoint = "unix://{socket}"
    gc {{
      image     = false
      container = false
    }}
    volumes {{
      enabled = true
    }}
    {more}
  }}
}}
"""
