# SPDX-License-Identifier: MPL-2.0
"""The options of the `config` block. Each is declared here, once.

The schema that Nomad gets, the decoder, the command line and the table in
`docs/configuration.md` are made from these declarations. To add an option, add a field.
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, NamedTuple

from nomad_nvidia_vgpu.config import values
from nomad_nvidia_vgpu.config.declaring import Option, block, declared_in, labelled_blocks, option

if TYPE_CHECKING:
    from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus

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


_PRIORITY = values.word("normal", "below-normal")


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
            _PRIORITY,
            "the priority of the processes on a GPU, which is a hint to the driver",
            shown='"normal"',
        ),
    ] = "normal"


_OVERCOMMIT = values.factor(16)
_GROUP_BY = values.word("model", "gpu")
SHARING: Mapping[str, str] = {
    "time-slicing": "time_slicing.TimeSlicing",
    "mps": "mps.strategy.Mps",
}
"""The ways to share a GPU, each with its `Strategy` below `sharing/`: a new way is a line here."""

_SHARING = values.word(*SHARING)


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
        float | None, option(_OVERCOMMIT, "how many times its share a task on these GPUs may use")
    ] = None
    sharing: Annotated[
        str | None, option(_SHARING, "how the tasks of these GPUs are kept apart")
    ] = None
    group_by: Annotated[str | None, option(_GROUP_BY, "how these GPUs become device groups")] = None
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
    mps_priority: Annotated[str | None, option(_PRIORITY, "`mps.priority` of these GPUs")] = None

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


class PluginConfig(NamedTuple):
    """A valid config; immutable. The defaults are those of an empty `config` block."""

    enabled: Annotated[
        bool,
        option(
            values.boolean(), "`false`: publish nothing; the plugin keeps running", shown="true"
        ),
    ] = True
    vgpus: Annotated[
        int | None,
        option(values.whole_number(1, MAX_VGPUS), "how many vGPUs each GPU is divided into"),
    ] = None
    vgpu_memory_mib: Annotated[
        int | None,
        option(
            values.size(),
            "in place of `vgpus`: how much memory a vGPU has at least; each GPU is divided into as"
            " many as fit",
        ),
    ] = None
    memory_overcommit: Annotated[
        float,
        option(
            _OVERCOMMIT,
            "how many times its share of the memory a task may use while the GPU has room; what it is"
            " promised stays its share",
            shown="1",
        ),
    ] = 1.0
    unified_memory_reserve_mib: Annotated[
        int,
        option(
            values.size(),
            "what of the memory of a GPU without memory of its own (GB10) stays with the host, which"
            " Nomad gives out as RAM too; half of it at most",
            shown='"16GiB"',
        ),
    ] = 16384
    ignored_gpu_ids: Annotated[
        tuple[str, ...],
        option(
            values.list_of(values.text(r"[^\s,]{1,200}", "a UUID such as GPU-… or MIG-…")),
            "UUIDs of GPUs or MIG devices not to publish; the UUID of a GPU in MIG mode ignores all"
            " its MIG devices",
            shown="[]",
        ),
    ] = ()
    fingerprint_period_s: Annotated[
        float,
        option(
            values.duration(timedelta(milliseconds=100)),
            "how often the hardware is looked at",
            shown='"1m"',
        ),
    ] = 60.0
    vendor: Annotated[
        str,
        option(
            values.text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "letters, digits, '.', '_' and '-'"),
            'first part of the device name in jobs (`device "letmutx/gpu"`)',
            shown='"letmutx"',
        ),
    ] = "letmutx"
    group_by: Annotated[
        str,
        option(
            _GROUP_BY,
            "one device group per model, or one per GPU named `<model>/<GPU uuid>`, so that all"
            " vGPUs of one request are of one GPU",
            shown='"model"',
        ),
    ] = "model"
    publish_load: Annotated[
        bool,
        option(
            values.boolean(),
            "also publish how many vGPUs of a device group of one GPU are free, as"
            " `unique.free_vgpus` and `unique.free_memory`, for jobs that spread or pack by it",
            shown="false",
        ),
    ] = False
    publish_load_interval_s: Annotated[
        float,
        option(
            values.duration(timedelta(seconds=1)),
            "how often that may change at most: each change costs the servers a write, and an"
            " evaluation for each job on the node",
            shown='"10s"',
        ),
    ] = 10.0
    sharing: Annotated[
        str,
        option(
            _SHARING,
            'how tasks are kept to their shares: "time-slicing" by agreement, "mps" by NVIDIA\'s MPS'
            " server; GPUs shared by MPS are one device group each",
            shown='"time-slicing"',
        ),
    ] = "time-slicing"
    memory_isolation: Annotated[
        str,
        option(
            values.word("none", "cgroup"),
            '"cgroup": where driver, NVIDIA\'s container toolkit and kernel can, the driver holds each'
            " container on a time-sliced GPU to its share as a whole",
            shown='"none"',
        ),
    ] = "none"
    visible_devices_envs: Annotated[
        tuple[str, ...],
        option(
            values.list_of(
                values.text(r"[A-Za-z_][A-Za-z0-9_]{0,127}", "the name of an environment variable"),
                at_least=1,
            ),
            'variables that tell a task the UUIDs of its GPUs; add "CUDA_VISIBLE_DEVICES" for'
            " raw_exec and exec",
            shown='["NVIDIA_VISIBLE_DEVICES"]',
        ),
    ] = ("NVIDIA_VISIBLE_DEVICES",)
    device_nodes: Annotated[
        str,
        option(
            values.word("none", "cdi"),
            "whether a task is also given the device files and libraries of its GPUs, for exec and for"
            " containers without NVIDIA's runtime: \"cdi\" takes them from the node's CDI specifications",
            shown='"none"',
        ),
    ] = "none"
    cdi_spec_dirs: Annotated[
        tuple[str, ...],
        option(
            values.list_of(
                values.text(r"(/[^/\s]+)+", "an absolute path without blanks"), at_least=1
            ),
            "where the CDI specifications of this node are; a file in a later directory counts more",
            shown='["/etc/cdi", "/var/run/cdi"]',
        ),
    ] = ("/etc/cdi", "/var/run/cdi")
    framework_hints: Annotated[
        tuple[str, ...],
        option(
            values.list_of(values.word("jax", "pytorch", "tensorflow")),
            "frameworks that are told by variables of their own to keep to the task's share of memory",
            shown="[]",
        ),
    ] = ()
    framework_headroom_mib: Annotated[
        int,
        option(
            values.size(),
            "what of a share those leave to the CUDA context and to libraries",
            shown='"512MiB"',
        ),
    ] = 512
    metrics_address: Annotated[
        str,
        option(
            values.address(),
            "where Prometheus can read metrics, as `host:port`; empty: nowhere",
            shown='""',
        ),
    ] = ""
    simulate: Annotated[
        "tuple[SimulatedGpus, ...]",
        option(
            values.list_of(values.simulated(), distinct=False),
            "simulated GPUs instead of the node's, to try the plugin without hardware",
            shown="[]",
        ),
    ] = ()
    log_level: Annotated[
        str,
        option(
            values.word("trace", "debug", "info", "warn", "error"),
            "the least important lines that are handed to Nomad's log",
            shown='"info"',
        ),
    ] = "info"

    gpu: Annotated[
        tuple[GpuBlock, ...],
        labelled_blocks(
            GpuConfig,
            "selector",
            "labelled with a UUID, a PCI bus id or a model's name with * and ?",
            "what is different for some GPUs",
        ),
    ] = ()
    mps: Annotated[MpsConfig, block(MpsConfig, 'how GPUs are shared with `sharing = "mps"`')] = (
        MpsConfig()
    )
    memory_guard: Annotated[
        MemoryGuardConfig,
        block(MemoryGuardConfig, "what happens when a task uses more GPU memory than its share"),
    ] = MemoryGuardConfig()
    health: Annotated[
        HealthConfig, block(HealthConfig, "when a GPU is unhealthy, and what follows")
    ] = HealthConfig()

    @property
    def configured(self) -> bool:
        """Whether there is anything to publish: switched on, and a size given to some GPU."""
        return self.enabled and self.sized

    @property
    def sized(self) -> bool:
        """Whether anything says into how many vGPUs some GPU is divided."""
        own = self.vgpus is not None or self.vgpu_memory_mib is not None
        return own or any(block.given.sized for block in self.gpu)

    def shares_by(self, sharing: str) -> bool:
        """Whether some GPU may be shared in this way."""
        return sharing in (self.sharing, *(block.given.sharing for block in self.gpu))


def options(declared: type = PluginConfig) -> Iterator[Option]:
    """Every option that a class declares, in the order in which the docs list them."""
    return declared_in(declared)


def all_options() -> Iterator[tuple[str, Option]]:
    """Every option that holds a value, with its path: `vgpus`, `health.end_tasks`."""
    for outer in options():
        if outer.block is None:
            yield outer.name, outer
        else:
            for inner in options(outer.block):
                yield f"{outer.path}{inner.name}", inner
