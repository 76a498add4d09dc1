# SPDX-License-Identifier: MPL-2.0
"""The jobs that the tests run: a shell that prints its environment, and perhaps stays."""

from e2e import binaries

END_OF_ENVIRONMENT = "end of environment"
PID = "TASK_PID"
"""A variable that the task prints besides its environment: its process id."""

_PRINT = f"echo {PID}=$$; env; echo {END_OF_ENVIRONMENT}"

_JOB = """
job "{name}" {{
  datacenters = ["dc1"]
  type        = "{kind}"

  group "work" {{
    count = {count}

    # A task that fails is a failed test: no second try, unless that is what is tested.
    restart {{
      attempts = {restarts}
      delay    = "1s"
      mode     = "fail"
    }}
    reschedule {{
      attempts  = 0
      unlimited = false
    }}

    task "main" {{
      driver = "{driver}"
      config {{
        command = "/bin/sh"
        args    = ["-c", "{script}"]
      }}
      resources {{
        cpu    = 10
        memory = 16
        {device}
      }}
    }}
  }}
}}
"""


def device(body: str = "", *, name: str = "letmutx/gpu", count: int = 1) -> str:
    """A `device` block; `body` holds constraints and affinities."""
    return f'device "{name}" {{\n  count = {count}\n  {body}\n}}'


def constraint(attribute: str, operator: str, value: str) -> str:
    """A constraint within a `device` block."""
    target = f'attribute = "${{{attribute}}}"'
    return f'constraint {{\n  {target}\n  operator = "{operator}"\n  value = "{value}"\n}}'


def affinity(attribute: str, value: str) -> str:
    """An affinity within a `device` block."""
    return f'affinity {{\n  attribute = "${{{attribute}}}"\n  value = "{value}"\n  weight = 50\n}}'


def on_model(model: str) -> str:
    """A constraint that admits one model only."""
    return constraint("device.model", "=", model)


def printing_job(
    name: str,
    device_block: str,
    *,
    count: int = 1,
    driver: str = "raw_exec",
    first: str = "true",
) -> str:
    """A batch job whose tasks run `first`, print their environment and end."""
    return _JOB.format(
        name=name,
        kind="batch",
        count=count,
        restarts=0,
        driver=driver,
        script=f"{first}; {_PRINT}",
        device=device_block,
    )


def staying_job(
    name: str, device_block: str, *, count: int = 1, driver: str = "raw_exec", as_if: str = ""
) -> str:
    """A service job whose tasks print their environment and stay.

    `as_if`: variables that they then put into their environment, such as `A=1`.
    """
    script = f"{_PRINT}; exec env {as_if} sleep 3600" if as_if else f"{_PRINT}; exec sleep 3600"
    return _JOB.format(
        name=name,
        kind="service",
        count=count,
        restarts=0,
        driver=driver,
        script=script,
        device=device_block,
    )


_MOCK_JOB = """
job "{name}" {{
  datacenters = ["dc1"]
  type        = "service"

  group "work" {{
    count = {count}
    {placement}

    # What fails here failed to reserve: no second try. A lost node is no failure.
    restart {{
      attempts = 0
      mode     = "fail"
    }}
    reschedule {{
      attempts  = 0
      unlimited = false
    }}
    migrate {{
      max_parallel     = 8
      min_healthy_time = "0s"
    }}

    task "main" {{
      driver = "mock_driver"
      config {{
        run_for = "12h"
      }}
      {logs}
      resources {{
        cpu    = 1
        memory = 10
        {device}
      }}
    }}
  }}
}}
"""

SPREAD_OVER_NODES = 'spread {\n  attribute = "${node.unique.name}"\n  weight = 100\n}'
LOOK_AT_ALL_NODES = (
    'affinity {\n  attribute = "${attr.kernel.name}"\n  value = "linux"\n  weight = 1\n}'
)
"""An affinity that prefers none: without any, Nomad's scheduler looks at a few nodes only."""


# The collector of logs would be a process for each task.
_NO_LOGS = "logs {\n  disabled = true\n}"
_NO_LOGS_SINCE = (1, 6)


def mock_job(name: str, device_block: str, *, count: int = 1, placement: str = "") -> str:
    """A service job whose tasks are entries in a table of Nomad's own mock driver.

    `placement` goes into the group: constraints, affinities, a spread.
    """
    logs = _NO_LOGS if binaries.version_of(binaries.nomad()) >= _NO_LOGS_SINCE else ""
    return _MOCK_JOB.format(
        name=name, count=count, placement=placement, device=device_block, logs=logs
    )


def running_job(name: str, device_block: str, program: str, *, restarts: int = 0) -> str:
    """A service job whose task prints its environment and becomes this program."""
    return _JOB.format(
        name=name,
        kind="service",
        count=1,
        restarts=restarts,
        driver="raw_exec",
        script=f"{_PRINT}; exec {program}",
        device=device_block,
    )
