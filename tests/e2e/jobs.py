# SPDX-License-Identifier: MPL-2.0
"""The jobs that the tests run: a shell that prints its environment, and perhaps stays."""

END_OF_ENVIRONMENT = "end of environment"
PID = "TASK_PID"
"""A variable that the task prints besides its environment: its process id."""

_PRINT = f"echo {PID}=$$; env; echo {END_OF_ENVIRONMENT}"

_JOB = """
job "{name}" {{
  type = "{kind}"

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


def printing_job(name: str, device_block: str, *, count: int = 1, driver: str = "raw_exec") -> str:
    """A batch job whose tasks print their environment and end."""
    return _JOB.format(
        name=name,
        kind="batch",
        count=count,
        restarts=0,
        driver=driver,
        script=_PRINT,
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
