# SPDX-License-Identifier: MPL-2.0
"""When the fingerprint is sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device.fingerprint import stream
from nomad_nvidia_vgpu.gpu.model import SeenGpu
from unit.example_gpus import LOST, gpu
from unit.state.scripted_catalog import ScriptedCatalog

A, B = gpu("GPU-a"), gpu("GPU-b")
DAY = 86400.0
Sent = list[tuple[float, list[str]]]


def sent(script: Callable[[ScriptedCatalog], None], *, until: float = 10 * DAY) -> Sent:
    """Gives when a message was sent and which vGPUs were in it, until the host hung up."""
    catalog = ScriptedCatalog(PluginConfig(vgpus=1), hang_up_at=until)
    script(catalog)
    return [
        (catalog.clock.now, [i.id for group in groups for i in group.instances])
        for groups in stream(catalog, "letmutx", catalog.listening, catalog.clock)
    ]


def test_the_first_message_comes_when_all_have_answered() -> None:
    """As soon as every GPU has answered, the first message holds them all."""

    def script(catalog: ScriptedCatalog) -> None:
        catalog.at(1, A, complete=False)
        catalog.at(3, A, B)

    assert sent(script)[0] == (3, ["GPU-a-0", "GPU-b-0"])


def test_the_first_message_does_not_wait_for_ever() -> None:
    """After ten seconds the GPUs that have answered are sent; the rest follow when they do."""

    def script(catalog: ScriptedCatalog) -> None:
        catalog.at(1, A, complete=False)
        catalog.at(25, A, B)

    assert sent(script)[:2] == [(10, ["GPU-a-0"]), (25, ["GPU-a-0", "GPU-b-0"])]


def test_no_answer_at_all_is_an_empty_message() -> None:
    """When nothing has answered after ten seconds, an empty set is sent, and no other."""
    assert sent(lambda _catalog: None) == [(10, [])]


def test_a_node_without_gpus_says_so_at_once() -> None:
    """A node that has no GPU sends an empty set at once, once."""
    assert sent(lambda catalog: catalog.at(0, complete=True)) == [(0, [])]


def test_a_message_comes_with_each_change() -> None:
    """A change of health, of facts or of GPUs is a message at that moment."""

    def script(catalog: ScriptedCatalog) -> None:
        catalog.at(0, A)
        catalog.at(100, SeenGpu(A, LOST))
        catalog.at(200, A)
        catalog.at(300, gpu("GPU-a", power_limit_w=50))
        catalog.at(2 * DAY, A, B)

    assert [when for when, _ in sent(script)] == [0, 60, 100, 200, 300, 2 * DAY]


def test_no_message_comes_without_a_change() -> None:
    """Inventories that make the same device set are not sent again."""

    def script(catalog: ScriptedCatalog) -> None:
        for second in range(0, 1000, 7):
            catalog.at(second, A)

    assert [when for when, _ in sent(script)] == [0, 60]


def test_the_first_gpus_are_sent_once_more() -> None:
    """The first set that has GPUs is sent again after a minute, exactly once."""

    def script(catalog: ScriptedCatalog) -> None:
        catalog.at(0)
        catalog.at(100, A)

    assert sent(script) == [(0, []), (100, ["GPU-a-0"]), (160, ["GPU-a-0"])]


def test_what_is_repeated_is_what_is_true_then() -> None:
    """A change within the minute is sent at once, and it is what the repetition repeats."""

    def script(catalog: ScriptedCatalog) -> None:
        catalog.at(0, A)
        catalog.at(20, A, B)

    both = ["GPU-a-0", "GPU-b-0"]
    assert sent(script) == [(0, ["GPU-a-0"]), (20, both), (60, both)]


def test_a_change_in_time_is_the_repetition() -> None:
    """A change at the very moment of the repetition is sent once."""

    def script(catalog: ScriptedCatalog) -> None:
        catalog.at(0, A)
        catalog.at(60, A, B)

    assert [when for when, _ in sent(script)] == [0, 60]


def test_the_stream_outlasts_silence() -> None:
    """After days in which nothing happened, a change is still sent."""

    def script(catalog: ScriptedCatalog) -> None:
        catalog.at(0, A)
        catalog.at(9 * DAY, B)

    assert sent(script)[-1] == (9 * DAY, ["GPU-b-0"])


@pytest.mark.parametrize("until", [0.0, 5.0])
def test_a_host_that_hung_up_is_sent_nothing(until: float) -> None:
    """A host that hangs up before the first message gets none, and the stream ends."""
    assert sent(lambda catalog: catalog.at(7, A), until=until) == []


def test_the_stream_ends_when_the_host_hangs_up() -> None:
    """What changes after the host hung up is not sent."""

    def script(catalog: ScriptedCatalog) -> None:
        catalog.at(0, A)
        catalog.at(50, A, B)

    assert sent(script, until=40) == [(0, ["GPU-a-0"])]
