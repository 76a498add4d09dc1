# SPDX-License-Identifier: MPL-2.0
"""The options of the `config` block. Each is declared here, once.

The schema that Nomad gets, the decoder, the command line and the table in
`docs/configuration.md` are made from these declarations. To add an option, add a field.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from nomad_nvidia_vgpu.config import values

if TYPE_CHECKING:
    from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus

MAX_VGPUS = 256
LABELLED = ' "…"'
"""What stands in a path after the name of a block that may stand many times."""


class Option(NamedTuple):
    """One option as its declaration says."""

    name: str
    field: str
    """Its field in the class that declares it: the name, with the unit where it has one."""
    kind: values.Kind
    default_shown: str
    """The default as an operator would write it; empty if there is none."""
    doc: str
    block: type | None = None
    """For a block, the class that declares what is in it."""
    label: str = ""
    """What the label of a block says that may stand many times; empty: there is one, unlabelled."""

    @property
    def path(self) -> str:
        """What stands before the name of an option in this block: `health.`, `gpu "…".`."""
        return f"{self.name}{LABELLED if self.label else ''}."


def _option(kind: values.Kind, default: Any, doc: str, *, shown: str = "") -> Any:
    return dataclasses.field(default=default, metadata={"kind": kind, "doc": doc, "shown": shown})


def _block(declared: type, doc: str) -> Any:
    kind = values.Kind("block", "a block", values.no_scalar)
    return dataclasses.field(
        default=declared(), metadata={"kind": kind, "doc": doc, "shown": "", "block": declared}
    )


def _labelled_blocks(declared: type, label: str, allowed: str, doc: str) -> Any:
    kind = values.Kind("block", allowed, values.no_scalar)
    meta = {"kind": kind, "doc": doc, "shown": "", "block": declared, "label": label}
    return dataclasses.field(default=(), metadata=meta)


_XID = values.whole_number(1, 9999)


@dataclasses.dataclass(frozen=True)
class HealthConfig:
    """When a GPU is unhealthy, and what follows."""

    fatal_xids: tuple[int, ...] = _option(
        values.list_of(_XID),
        (),
        "XIDs that make a GPU unhealthy although the plugin would not think so",
        shown="[]",
    )
    ignored_xids: tuple[int, ...] = _option(
        values.list_of(_XID),
        (),
        "XIDs that do not make a GPU unhealthy although the plugin would think so",
        shown="[]",
    )
    recovery_period_s: float = _option(
        values.duration(timedelta(0)),
        60.0,
        "how long all signals of a GPU must have been good before it is healthy again",
        shown='"1m"',
    )
    end_tasks: bool = _option(
        values.boolean(),
        False,
        "end the GPU processes of tasks on a GPU whose fault needs a reset or a reboot, so that"
        " Nomad places the tasks elsewhere",
        shown="false",
    )


@dataclasses.dataclass(frozen=True)
class MpsConfig:
    """How GPUs are shared by MPS."""

    root: str = _option(
        values.text(
            r"(?=.{2,32}$)(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+",
            "an absolute path of at most 32 characters (letters, digits, '.', '_', '-'), for it"
            " becomes part of the names of unix sockets",
        ),
        "/run/nvidia-vgpu/mps",
        "where the MPS daemons of this node have their directories; written by this plugin alone",
        shown='"/run/nvidia-vgpu/mps"',
    )
    memory_limit: bool = _option(
        values.boolean(), True, "hold each process of a task to the task's memory", shown="true"
    )
    compute_limit: bool = _option(
        values.boolean(),
        True,
        "hold each process of a task to the task's part of the SMs",
        shown="true",
    )
    max_vgpus_per_task: int | None = _option(
        values.whole_number(1, MAX_VGPUS),
        None,
        "how many vGPUs of a GPU one task may have (all, if not set), and so the most that a task"
        " can take which drops its limits",
    )
    mount: bool = _option(
        values.boolean(),
        False,
        "also mount the daemon's pipe directory into the task, for containers",
        shown="false",
    )
    exclusive_process: bool = _option(
        values.boolean(),
        True,
        "set the GPU's compute mode to EXCLUSIVE_PROCESS, so that nothing runs beside its MPS"
        " server",
        shown="true",
    )
    multi_user: bool = _option(
        values.boolean(),
        True,
        "let tasks of different users use a GPU at the same time",
        shown="true",
    )


_GROUP_BY = values.word("model", "gpu")
_SHARING = values.word("time-slicing", "mps")


@dataclasses.dataclass(frozen=True)
class GpuConfig:
    """What is different for some GPUs; None: as for less special ones, or for all."""

    vgpus: int | None = _option(
        values.whole_number(1, MAX_VGPUS), None, "how many vGPUs each of these GPUs is divided into"
    )
    vgpu_memory_mib: int | None = _option(
        values.size(), None, "how much memory a vGPU of these GPUs has at least"
    )
    sharing: str | None = _option(_SHARING, None, "how the tasks of these GPUs are kept apart")
    group_by: str | None = _option(_GROUP_BY, None, "how these GPUs become device groups")
    ignored: bool | None = _option(
        values.boolean(), None, "`true`: do not publish these GPUs; `false`: do, after all"
    )
    name: str | None = _option(
        values.text(
            r"(?=.{1,80}$)[A-Za-z0-9]([A-Za-z0-9 ._+()-]*[A-Za-z0-9._+()-])?",
            "a name of at most 80 letters, digits, blanks and '.', '_', '+', '-', '(', ')'",
        ),
        None,
        "the name of their device group, in place of the model's",
    )

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


@dataclasses.dataclass(frozen=True)
class MemoryGuardConfig:
    """What happens when a task uses more GPU memory than its share."""

    action: str = _option(
        values.word("off", "warn", "kill"),
        "warn",
        "what happens to a task whose processes together use more memory of a GPU than its share:"
        ' `"warn"` logs and counts it, `"kill"` also ends its GPU processes, the youngest first and'
        " only as many as needed",
        shown='"warn"',
    )
    grace_s: float = _option(
        values.duration(timedelta(0)),
        30.0,
        "how long a task must use too much before anything happens",
        shown='"30s"',
    )
    tolerance_percent: int = _option(
        values.whole_number(0, 100),
        5,
        "how much more than its share a task may use",
        shown="5",
    )


def _simulated(value: object) -> SimulatedGpus:
    # Imported late: a node with GPUs has no use for the profiles of others.
    from nomad_nvidia_vgpu.gpu.profiles import parse_simulated  # noqa: PLC0415

    return parse_simulated(value)


@dataclasses.dataclass(frozen=True)
class PluginConfig:
    """A valid config; immutable. The defaults are those of an empty `config` block."""

    enabled: bool = _option(
        values.boolean(),
        True,
        "`false`: publish nothing; the plugin keeps running",
        shown="true",
    )
    vgpus: int | None = _option(
        values.whole_number(1, MAX_VGPUS),
        None,
        "how many vGPUs each GPU is divided into",
    )
    vgpu_memory_mib: int | None = _option(
        values.size(),
        None,
        "in place of `vgpus`: how much memory a vGPU has at least; each GPU is divided into as"
        " many as fit",
    )
    ignored_gpu_ids: tuple[str, ...] = _option(
        values.list_of(values.text(r"[^\s,]{1,200}", "a UUID such as GPU-… or MIG-…")),
        (),
        "UUIDs of GPUs or MIG devices not to publish; the UUID of a GPU in MIG mode ignores all"
        " its MIG devices",
        shown="[]",
    )
    fingerprint_period_s: float = _option(
        values.duration(timedelta(milliseconds=100)),
        60.0,
        "how often the hardware is looked at",
        shown='"1m"',
    )
    vendor: str = _option(
        values.text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "letters, digits, '.', '_' and '-'"),
        "letmutx",
        'first part of the device name in jobs (`device "letmutx/gpu"`)',
        shown='"letmutx"',
    )
    group_by: str = _option(
        _GROUP_BY,
        "model",
        "one device group per model, or one per GPU named `<model>/<GPU uuid>`, so that all"
        " vGPUs of one request are of one GPU",
        shown='"model"',
    )
    sharing: str = _option(
        _SHARING,
        "time-slicing",
        'how tasks are kept to their shares: "time-slicing" by agreement, "mps" by NVIDIA\'s MPS'
        " server; GPUs shared by MPS are one device group each",
        shown='"time-slicing"',
    )
    visible_devices_envs: tuple[str, ...] = _option(
        values.list_of(
            values.text(r"[A-Za-z_][A-Za-z0-9_]{0,127}", "the name of an environment variable"),
            at_least=1,
        ),
        ("NVIDIA_VISIBLE_DEVICES",),
        'variables that tell a task the UUIDs of its GPUs; add "CUDA_VISIBLE_DEVICES" for'
        " raw_exec and exec",
        shown='["NVIDIA_VISIBLE_DEVICES"]',
    )
    device_nodes: str = _option(
        values.word("none", "cdi"),
        "none",
        "whether a task is also given the device files and libraries of its GPUs, for exec and for"
        " containers without NVIDIA's runtime: \"cdi\" takes them from the node's CDI specifications",
        shown='"none"',
    )
    cdi_spec_dirs: tuple[str, ...] = _option(
        values.list_of(values.text(r"(/[^/\s]+)+", "an absolute path without blanks"), at_least=1),
        ("/etc/cdi", "/var/run/cdi"),
        "where the CDI specifications of this node are; a file in a later directory counts more",
        shown='["/etc/cdi", "/var/run/cdi"]',
    )
    framework_hints: tuple[str, ...] = _option(
        values.list_of(values.word("jax", "pytorch", "tensorflow")),
        (),
        "frameworks that are told by variables of their own to keep to the task's share of memory",
        shown="[]",
    )
    framework_headroom_mib: int = _option(
        values.size(),
        512,
        "what of a share those leave to the CUDA context and to libraries",
        shown='"512MiB"',
    )
    metrics_address: str = _option(
        values.address(),
        "",
        "where Prometheus can read metrics, as `host:port`; empty: nowhere",
        shown='""',
    )
    simulate: tuple[SimulatedGpus, ...] = _option(
        values.list_of(
            values.Kind("string", '"<profile>[:<count>[:<MIG profile>,…]]"', _simulated),
            distinct=False,
        ),
        (),
        "simulated GPUs instead of the node's, to try the plugin without hardware",
        shown="[]",
    )
    log_level: str = _option(
        values.word("trace", "debug", "info", "warn", "error"),
        "info",
        "the least important lines that are handed to Nomad's log",
        shown='"info"',
    )

    gpu: tuple[GpuBlock, ...] = _labelled_blocks(
        GpuConfig,
        "selector",
        "blocks, each labelled with a UUID, a PCI bus id or a model's name with * and ?",
        "what is different for some GPUs",
    )
    mps: MpsConfig = _block(  # noqa: RUF009  a dataclasses.field, as `_option` makes
        MpsConfig, 'how GPUs are shared with `sharing = "mps"`'
    )
    memory_guard: MemoryGuardConfig = _block(  # noqa: RUF009  a dataclasses.field, as `_option` makes
        MemoryGuardConfig, "what happens when a task uses more GPU memory than its share"
    )
    health: HealthConfig = _block(  # noqa: RUF009  a dataclasses.field, as `_option` makes
        HealthConfig, "when a GPU is unhealthy, and what follows"
    )

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


_UNITS = re.compile(r"_(s|mib)$")


def options(declared: type = PluginConfig) -> Iterator[Option]:
    """Every option that a class declares, in the order in which the docs list them.

    A field that holds seconds or MiB says so at its end; its option does not, for it carries a
    unit itself.
    """
    for field in dataclasses.fields(declared):
        meta = field.metadata
        yield Option(
            _UNITS.sub("", field.name),
            field.name,
            meta["kind"],
            meta["shown"],
            meta["doc"],
            meta.get("block"),
            meta.get("label", ""),
        )


def all_options() -> Iterator[tuple[str, Option]]:
    """Every option that holds a value, with its path: `vgpus`, `health.end_tasks`."""
    for option in options():
        if option.block is None:
            yield option.name, option
        else:
            for inner in options(option.block):
                yield f"{option.path}{inner.name}", inner
