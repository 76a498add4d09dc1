# SPDX-License-Identifier: MPL-2.0
"""The options inside of blocks: `health`, `mps`, `gpu`, `memory_guard`.

As in `options`, each is declared once; to add an option to a block, add a field.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, NamedTuple

from nomad_nvidia_vgpu.config import values
from nomad_nvidia_vgpu.config.declaring import option

MAX_VGPUS = 256

_XID = values.whole_number(1, 9999)


class HealthConfig(NamedTuple):
    """When a GPU is unhealthy, and what follows."""

    fatal_xids: Annotated[
        tuple[int, ...],
        option(
            values.list_of(_XID),
            "XIDs that make a GPU unhealthy although the plugin would not think so",
            shown="[]",
        ),
    ] = ()
    ignored_xids: Annotated[
        tuple[int, ...],
        option(
            values.list_of(_XID),
            "XIDs that do not make a GPU unhealthy although the plugin would think so",
            shown="[]",
        ),
    ] = ()
    recovery_period_s: Annotated[
        float,
        option(
            values.duration(timedelta(0)),
            "how long all signals of a GPU must have been good before it is healthy again",
            shown='"1m"',
        ),
    ] = 60.0
    end_tasks: Annotated[
        bool,
        option(
            values.boolean(),
            "end the GPU processes of tasks on a GPU whose fault needs a reset or a reboot, so that"
            " Nomad places the tasks elsewhere",
            shown="false",
        ),
    ] = False


PRIORITY = values.word("normal", "below-normal")


class MpsConfig(NamedTuple):
    """How GPUs are shared by MPS."""

    root: Annotated[
        str,
        option(
            values.text(
                r"(?=.{2,32}$)(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+",
                "an absolute path of at most 32 characters (letters, digits, '.', '_', '-'), because it"
                " becomes part of the names of unix sockets",
            ),
            "where the MPS daemons of this node have their directories; written by this plugin alone",
            shown='"/run/nvidia-vgpu/mps"',
        ),
    ] = "/run/nvidia-vgpu/mps"
    memory_limit: Annotated[
        bool,
        option(values.boolean(), "hold each process of a task to the task's memory", shown="true"),
    ] = True
    compute_limit: Annotated[
        bool,
        option(
            values.boolean(),
            "hold each process of a task to the task's part of the SMs",
            shown="true",
        ),
    ] = True
    max_vgpus_per_task: Annotated[
        int | None,
        option(
            values.whole_number(1, MAX_VGPUS),
            "how many vGPUs of a GPU one task may have (all, if not set), and so the most that a task"
            " can take which drops its limits",
        ),
    ] = None
    mount: Annotated[
        bool,
        option(
            values.boolean(),
            "also mount the daemon's pipe directory into the task, for containers",
            shown="false",
        ),
    ] = False
    exclusive_process: Annotated[
        bool,
        option(
            values.boolean(),
            "set the GPU's compute mode to EXCLUSIVE_PROCESS, so that nothing runs beside its MPS"
            " server",
            shown="true",
        ),
    ] = True
    multi_user: Annotated[
        bool,
        option(
            values.boolean(),
            "let tasks of different users use a GPU at the same time",
            shown="true",
        ),
    ] = True
    priority: Annotated[
        str,
        option(
            PRIORITY,
            "the priority of the processes on a GPU, which is a hint to the driver",
            shown='"normal"',
        ),
    ] = "normal"


OVERCOMMIT = values.factor(16)
GROUP_BY = values.word("model", "gpu")
SHARING: Mapping[str, str] = {
    "time-slicing": "time_slicing.TimeSlicing",
    "mps": "mps.strategy.Mps",
}
"""The ways to share a GPU, each with its `Strategy` below `sharing/`: a new way is a line here."""

SHARING_WORD = values.word(*SHARING)


class GpuConfig(NamedTuple):
    """What is different for some GPUs; None: as for less special ones, or for all."""

    vgpus: Annotated[
        int | None,
        option(
            values.whole_number(1, MAX_VGPUS), "how many vGPUs each of these GPUs is divided into"
        ),
    ] = None
    vgpu_memory_mib: Annotated[
        int | None, option(values.size(), "how much memory a vGPU of these GPUs has at least")
    ] = None
    memory_overcommit: Annotated[
        float | None, option(OVERCOMMIT, "how many times its share a task on these GPUs may use")
    ] = None
    sharing: Annotated[
        str | None, option(SHARING_WORD, "how the tasks of these GPUs are kept apart")
    ] = None
    group_by: Annotated[str | None, option(GROUP_BY, "how these GPUs become device groups")] = None
    ignored: Annotated[
        bool | None,
        option(values.boolean(), "`true`: do not publish these GPUs; `false`: do, after all"),
    ] = None
    name: Annotated[
        str | None,
        option(
            values.text(
                r"(?=.{1,80}$)[A-Za-z0-9]([A-Za-z0-9 ._+()-]*[A-Za-z0-9._+()-])?",
                "a name of at most 80 letters, digits, blanks and '.', '_', '+', '-', '(', ')'",
            ),
            "the name of their device group, in place of the model's",
        ),
    ] = None
    mps_priority: Annotated[str | None, option(PRIORITY, "`mps.priority` of these GPUs")] = None

    @property
    def sized(self) -> bool:
        """Whether it says into how many vGPUs a GPU is divided."""
        return self.vgpus is not None or self.vgpu_memory_mib is not None


class GpuBlock(NamedTuple):
    """One `gpu "<selector>" { … }`."""

    selector: str
    """A UUID, a PCI bus id, or a glob over the model's name."""
    given: GpuConfig

    def __str__(self) -> str:
        return f'gpu "{self.selector}"'


class MemoryGuardConfig(NamedTuple):
    """What happens when a task uses more GPU memory than its share."""

    action: Annotated[
        str,
        option(
            values.word("off", "warn", "kill"),
            "what happens to a task whose processes together use more memory of a GPU than its share:"
            ' `"warn"` logs and counts it, `"kill"` also ends its GPU processes, the youngest first and'
            " only as many as needed",
            shown='"warn"',
        ),
    ] = "warn"
    grace_s: Annotated[
        float,
        option(
            values.duration(timedelta(0)),
            "how long a task must use too much before anything happens",
            shown='"30s"',
        ),
    ] = 30.0
    tolerance_percent: Annotated[
        int,
        option(
            values.whole_number(0, 100), "how much more than its share a task may use", shown="5"
        ),
    ] = 5
