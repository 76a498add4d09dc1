# SPDX-License-Identifier: MPL-2.0
"""What Nomad asks of any plugin."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import grpc
import msgpack
import pytest

from nomad_nvidia_vgpu import __version__
from nomad_nvidia_vgpu.config.options import PluginConfig, options
from nomad_nvidia_vgpu.rpc.base_service import BaseService
from nomad_nvidia_vgpu.rpc.generated import base_pb2
from unit.rpc.fake_context import Aborted, FakeContext


class Told:
    """A service that can be sent configs."""

    def __init__(self) -> None:
        """Was told nothing yet."""
        self.at_work = False
        self.service = BaseService(at_work=lambda: self.at_work)

    def set(self, **config: object) -> base_pb2.SetConfigResponse:
        """Sends a config."""
        data = msgpack.packb(config)
        request = base_pb2.SetConfigRequest(msgpack_config=data, plugin_api_version="v0.1.0")
        return self.service.SetConfig(request, FakeContext().as_context())


@pytest.fixture
def told() -> Iterator[Told]:
    """Gives a service; puts the log level back that configs set."""
    logger = logging.getLogger("nomad_nvidia_vgpu")
    level = logger.level
    yield Told()
    logger.setLevel(level)


def test_the_plugin_names_itself(told: Told) -> None:
    """The name is the one that its file in plugin_dir must have, the version is the package's."""
    info = told.service.PluginInfo(base_pb2.PluginInfoRequest(), FakeContext().as_context())
    assert (info.name, info.plugin_version) == ("nvidia-vgpu", __version__)


def test_the_version_is_above_the_originals() -> None:
    """Of two plugin files of one name Nomad takes the higher version: it must be ours."""
    assert tuple(int(part) for part in __version__.split(".")[:3]) > (0, 1, 0)


def test_the_schema_has_every_option(told: Told) -> None:
    """Nomad is told of every option."""
    answer = told.service.ConfigSchema(base_pb2.ConfigSchemaRequest(), FakeContext().as_context())
    assert set(answer.spec.object.attributes) == {option.name for option in options()}


def test_before_any_config_nothing_is_configured(told: Told) -> None:
    """Until Nomad sends a config, nothing is to be published."""
    assert told.service.config == PluginConfig()


def test_the_newest_valid_config_counts(told: Told) -> None:
    """Of the configs that Nomad sends, the last is the one in force."""
    told.set(vgpus=7)
    told.set(vgpus=4)
    told.set(vgpus=4)
    assert told.service.config == PluginConfig(vgpus=4)


def test_a_wrong_config_is_refused_with_every_problem(told: Told) -> None:
    """A config with problems is an invalid argument whose text names each, and is not taken."""
    told.set(vgpus=2)
    with pytest.raises(Aborted, match=r"\(1\) vgpus must .*; \(2\) vendor must ") as refused:
        told.set(vgpus=0, vendor="a b")
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert told.service.config == PluginConfig(vgpus=2)


def test_an_unconfigured_plugin_warns_once(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    """A config in which nothing is given is taken, with one warning that names vgpus."""
    told.set()
    told.set(vgpus=None)
    (warning,) = caplog.messages
    assert "vgpus" in warning
    assert told.service.config == PluginConfig()


@pytest.mark.parametrize("config", [{"vgpus": 1}, {"enabled": False}])
def test_a_plugin_that_was_told_warns_of_nothing(
    told: Told, caplog: pytest.LogCaptureFixture, config: dict[str, object]
) -> None:
    """A config with a size, or one that switches the plugin off, is no cause for a warning."""
    told.set(**config)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("word", "level"), [("trace", 5), ("debug", 10), ("info", 20), ("warn", 30), ("error", 40)]
)
def test_the_log_level_is_set(told: Told, word: str, level: int) -> None:
    """The option for the log level rules what is logged from then on."""
    told.set(vgpus=1, log_level=word)
    assert logging.getLogger("nomad_nvidia_vgpu").level == level


def test_a_config_that_comes_while_at_work_is_not_taken(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """While GPUs are published by one config, another one changes nothing but the log."""
    told.set(vgpus=2)
    told.at_work = True
    told.set(vgpus=4, log_level="debug")
    assert told.service.config == PluginConfig(vgpus=2)
    assert logging.getLogger("nomad_nvidia_vgpu").level == logging.INFO
    (warning,) = caplog.messages
    assert "restart the agent" in warning


def test_the_same_config_while_at_work_warns_of_nothing(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """Nomad sends the same config twice, and the second is no cause for a warning."""
    told.set(vgpus=2)
    told.at_work = True
    told.set(vgpus=2)
    assert not caplog.messages
