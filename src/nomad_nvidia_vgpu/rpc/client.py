# SPDX-License-Identifier: MPL-2.0
"""The calls that Nomad's agent makes, for tools and tests that stand in its place."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import grpc
import msgpack

from nomad_nvidia_vgpu.config.declaring import LABELLED
from nomad_nvidia_vgpu.device.fingerprint import Attribute, DeviceGroup, Instance
from nomad_nvidia_vgpu.device.reserve import Reservation
from nomad_nvidia_vgpu.device.stats import Stat
from nomad_nvidia_vgpu.goplugin.handshake import Handshake
from nomad_nvidia_vgpu.goplugin.host import LogLine, PluginProcess, Stopped
from nomad_nvidia_vgpu.rpc.base_messages import API_VERSION
from nomad_nvidia_vgpu.rpc.generated import (
    base_pb2,
    base_pb2_grpc,
    device_pb2,
    device_pb2_grpc,
    hclspec_pb2,
    structs_pb2,
)
from nomad_nvidia_vgpu.sharing.grant import DeviceNode, Mount

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

CALL_TIMEOUT_S = 30.0

_T = TypeVar("_T")


class PluginInfo(NamedTuple):
    """What a plugin says of itself."""

    name: str
    version: str
    api_versions: tuple[str, ...]


class InstanceStats(NamedTuple):
    """The figures of one vGPU."""

    summary: Stat
    stats: Mapping[str, Stat]
    taken_at_s: float
    """Seconds since the epoch."""


StatsOfGroups = Mapping[str, Mapping[str, InstanceStats]]
"""By name of the group and id of the vGPU."""


class Refused(Exception):  # noqa: N818  what the plugin did, not what went wrong here
    """The plugin answered a call with an error; the text is what an operator would read."""

    def __init__(self, error: grpc.RpcError) -> None:
        """Keeps status and text of the gRPC error."""
        self.code: grpc.StatusCode = error.code()
        self.text: str = error.details() or ""
        super().__init__(self.text)


class Host:
    """A plugin process and Nomad's calls on it; a context manager that stops the plugin."""

    def __init__(
        self,
        command: Sequence[str],
        handshake: Handshake,
        *,
        environment: Mapping[str, str] | None = None,
        on_log: Callable[[LogLine], None] | None = None,
    ) -> None:
        """Starts the plugin; HandshakeError if it does not come up."""
        self.plugin = PluginProcess(command, handshake, environment=environment, on_log=on_log)
        channel = self.plugin.channel
        self._base = base_pb2_grpc.BasePluginStub(channel)
        self._device = device_pb2_grpc.DevicePluginStub(channel)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops the plugin."""
        self.plugin.__exit__(kind, error, trace)

    def stop(self) -> Stopped:
        """Stops the plugin as Nomad does."""
        return self.plugin.stop()

    def info(self) -> PluginInfo:
        """What the plugin says of itself."""
        answer = _call(self._base.PluginInfo, base_pb2.PluginInfoRequest())
        return PluginInfo(answer.name, answer.plugin_version, tuple(answer.plugin_api_versions))

    def schema(self) -> dict[str, str]:
        """The type of each option; those in a block by their path, as `all_options` spells it."""
        answer = _call(self._base.ConfigSchema, base_pb2.ConfigSchemaRequest())
        return dict(_types(answer.spec, ""))

    def set_config(self, config: Mapping[str, object]) -> None:
        """Sends a config as Nomad does: every option of the schema, nil where none is given.

        Of blocks with labels an empty map.
        """
        nothing: dict[str, object] = {
            re.split(r"\W", path)[0]: {} if LABELLED in path else None
            for path in sorted(self.schema())
        }
        self.set_config_bytes(msgpack.packb({**nothing, **config}))

    def set_config_bytes(self, data: bytes) -> None:
        """Sends bytes as a config; Refused with the plugin's words."""
        request = base_pb2.SetConfigRequest(msgpack_config=data, plugin_api_version=API_VERSION)
        _call(self._base.SetConfig, request)

    def fingerprints(self) -> Stream[tuple[DeviceGroup, ...]]:
        """The stream of device groups."""
        return Stream(self._device.Fingerprint(device_pb2.FingerprintRequest()), _groups)

    def reserve(self, ids: Sequence[str]) -> Reservation:
        """What a task would be given for these vGPUs; Refused with the plugin's words."""
        answer = _call(self._device.Reserve, device_pb2.ReserveRequest(device_ids=ids))
        container = answer.container_res
        mounts = (Mount(m.host_path, m.task_path, m.read_only) for m in container.mounts)
        devices = (DeviceNode(d.host_path, d.task_path, d.permissions) for d in container.devices)
        return Reservation(dict(container.envs), tuple(mounts), tuple(devices))

    def stats(self, interval_s: float) -> Stream[StatsOfGroups]:
        """The stream of stats."""
        request = device_pb2.StatsRequest()
        request.collection_interval.FromNanoseconds(int(interval_s * 1e9))
        return Stream(self._device.Stats(request), _stats)


class Stream(Iterator[_T]):
    """Messages of a server stream in our types, until it is cancelled."""

    def __init__(self, call: Any, convert: Callable[[Any], _T]) -> None:
        """`call` is gRPC's; `convert` makes ours of each message."""
        self._call = call
        self._convert = convert

    def __next__(self) -> _T:
        """Waits for the next message."""
        return self._convert(next(self._call))

    def next_within(self, seconds: float) -> _T:
        """Waits for the next message, but no longer; TimeoutError, and the stream is over."""
        timer = threading.Timer(seconds, self._call.cancel)
        timer.start()
        try:
            return next(self)
        except grpc.RpcError as error:
            if self._call.cancelled():
                raise TimeoutError(f"no message within {seconds:g} s") from error
            raise
        finally:
            timer.cancel()

    def cancel(self) -> None:
        """Hangs up, as Nomad does before it stops a plugin."""
        self._call.cancel()


def _call(method: Callable[..., Any], request: Any) -> Any:
    try:
        return method(request, timeout=CALL_TIMEOUT_S)
    except grpc.RpcError as error:
        raise Refused(error) from error


def _types(spec: hclspec_pb2.Spec, path: str) -> Iterator[tuple[str, str]]:
    for name, inner in spec.object.attributes.items():
        if inner.HasField("block_value"):
            yield from _types(inner.block_value.nested, f"{path}{name}.")
        elif inner.HasField("block_map"):
            yield from _types(inner.block_map.nested, f"{path}{name}{LABELLED}.")
        else:
            yield f"{path}{name}", inner.Attr.type


def _groups(message: device_pb2.FingerprintResponse) -> tuple[DeviceGroup, ...]:
    return tuple(
        DeviceGroup(
            group.vendor,
            group.device_type,
            group.device_name,
            tuple(
                Instance(
                    d.ID,
                    d.healthy,
                    d.health_description,
                    d.hw_locality.pci_bus_id if d.HasField("hw_locality") else None,
                )
                for d in group.devices
            ),
            {name: _attribute(value) for name, value in sorted(group.attributes.items())},
        )
        for group in message.device_group
    )


def _attribute(message: structs_pb2.Attribute) -> Attribute:
    field = message.WhichOneof("value")
    assert field is not None, "an attribute without a value switches the plugin off"
    return Attribute(getattr(message, field), message.unit)


def _stats(message: device_pb2.StatsResponse) -> StatsOfGroups:
    return {
        group.name: {
            vgpu: InstanceStats(
                _stat(stats.summary),
                {n: _stat(s) for n, s in sorted(stats.stats.attributes.items())},
                stats.timestamp.ToNanoseconds() / 1e9,
            )
            for vgpu, stats in group.instance_stats.items()
        }
        for group in message.groups
    }


def _stat(message: structs_pb2.StatValue) -> Stat:
    value: str | float = message.string_val.value
    total: float | None = None
    for kind in ("int", "float"):
        if message.HasField(f"{kind}_numerator_val"):  # type: ignore[arg-type]
            value = getattr(message, f"{kind}_numerator_val").value
        if message.HasField(f"{kind}_denominator_val"):  # type: ignore[arg-type]
            total = getattr(message, f"{kind}_denominator_val").value
    return Stat(value, total, message.unit, message.desc)
