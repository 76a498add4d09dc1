# SPDX-License-Identifier: MPL-2.0
"""Nodes with different GPUs, sizes and `gpu` blocks: the installed program over our library."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from libnvidia_ml.driver import FakeDriver

from nomad_nvidia_vgpu.device.fingerprint import DeviceGroup
from nomad_nvidia_vgpu.rpc.client import Refused

from .conftest import PROGRAM, Start, fact
from .fingerprints import Groups, first_in, healthy, reasons
from .task_cgroups import any_task

A100 = "NVIDIA A100-SXM4-40GB"


def shares(groups: Groups) -> dict[str, tuple[int, object]]:
    """By name of the group: how many vGPUs it has, and the MiB of one; None while not known."""
    # The driver may be seen between two lines of what the test writes.
    found = ((group, group.attributes.get("vgpu_memory")) for group in groups)
    return {g.name: (len(g.instances), memory and memory.value) for g, memory in found}


def mig_device(node: FakeDriver, section: str, uuid: str, profile: str, **keys: Any) -> None:
    """Makes a MIG device as the administrator would."""
    for key, value in {"uuid": uuid, "name": f"{A100} MIG {profile}", **keys}.items():
        node.set(section, key, value)


def test_sizes_and_blocks_divide_a_mixed_node(node: FakeDriver, start: Start) -> None:
    """UUID, bus id as NVML spells it, and model decide; the published share is what it really is."""
    node.load("mixed")
    groups = next(
        start(
            node,
            vgpu_memory="10GiB",
            gpu={
                fact(node, "gpu 0", "uuid"): {"vgpus": 16, "name": "small", "vgpu_memory": None},
                "0000AD50:D8:00.0": {"vgpus": 2},
                "*A100*": {"group_by": "gpu"},
            },
        ).fingerprints()
    )
    a100 = fact(node, "gpu 3", "uuid")
    assert shares(groups) == {
        "small": (16, 46068 // 16),
        "NVIDIA L40S": (4, 46068 // 4),
        "Tesla T4 7.5GiB": (2, 7680),
        f"{A100}/{a100}": (4, 10240),
    }
    assert all(g.attributes["model"].value for g in groups)
    assert all(healthy(groups).values())


def test_a_gpu_that_cannot_be_divided_says_why(node: FakeDriver, start: Start) -> None:
    """Hardware never makes SetConfig fail; the GPU alone is unhealthy, and refused."""
    node.load("mixed")
    host = start(node, vgpu_memory="20GiB", gpu={"*L40S": {"vgpus": 3}, "*L40S*": {"vgpus": 2}})
    groups = next(host.fingerprints())
    t4 = fact(node, "gpu 2", "uuid")
    well = {uuid for uuid, good in healthy(groups).items() if good}
    assert well == {fact(node, "gpu 3", "uuid")}
    assert any(
        text.startswith(f"{t4}: its 15360 MiB are less than one") for text in reasons(groups)
    )
    assert any(
        "are equally special and say different things of its size" in t for t in reasons(groups)
    )
    with pytest.raises(Refused, match="less than one vgpu_memory"):
        host.reserve([f"{t4}-0"])


@pytest.mark.parametrize("gpu", [{}, None])
def test_no_blocks_and_nothing_else_is_not_configured(
    node: FakeDriver, start: Start, gpu: Mapping[str, object] | None
) -> None:
    """Nomad 1.9 sends that for every file in plugin_dir without a plugin block."""
    host = start(node)
    host.set_config({"gpu": gpu})
    assert next(host.fingerprints()) == ()


def test_wrong_blocks_are_refused_together(node: FakeDriver, start: Start) -> None:
    """Each problem is named with its block; nothing is left for the second try."""
    host = start(node)
    blocks = {"GPU-a": {"vgpus": 0}, "*": {"vgpus": 2, "vgpu_memory": "1GiB"}}
    with pytest.raises(Refused) as refused:
        host.set_config({"vgpu_memory": "lots", "gpu": blocks})
    for sentence in (
        "vgpu_memory must be a size",
        'gpu "GPU-a".vgpus must be',
        'gpu "*".vgpus and',
    ):
        assert sentence in refused.value.text


def test_a_block_for_nothing_is_told_with_the_gpus_there_are(
    node: FakeDriver, start: Start
) -> None:
    """A selector with a slip of the pen is a warning, because the GPU may only be away."""
    node.load("mixed")
    host = start(node, vgpus=2, gpu={"*H100*": {"vgpus": 4}})
    next(host.fingerprints())
    # Said again when a GPU that answers late is there too.
    *_, warning = host.logged_in_all("warn", fact(node, "gpu 2", "uuid"))
    assert "*H100* is for none of the GPUs of this node" in warning.replace('"', "")
    assert "ad50:d8:00.0" in warning


def test_mig_devices_follow_their_parent_profile_and_uuid(node: FakeDriver, start: Start) -> None:
    """A layout that mixes a whole GPU and MIG devices, each divided by the block that names it."""
    node.load("a100_mig")
    first, second = (fact(node, f"mig 0.{slot}", "uuid") for slot in (0, 2))
    groups = next(
        start(
            node,
            vgpus=1,
            gpu={
                fact(node, "gpu 0", "uuid"): {"vgpus": 2},
                "* MIG 3g.20gb": {"vgpus": 3, "name": "halves"},
                second: {"vgpus": 4},
            },
        ).fingerprints()
    )
    assert shares(groups) == {
        "halves 9.7GiB": (2, 9984),
        "halves 4.8GiB": (4, 4992),
        A100: (1, 40960),
    }
    ids = {
        i.id.rpartition("-")[0] for g in groups if g.name == "halves 9.7GiB" for i in g.instances
    }
    assert ids == {first}


def test_one_layout_for_all_is_one_group(node: FakeDriver, start: Start) -> None:
    """Where every GPU is cut alike, the parts are as interchangeable as whole GPUs are."""
    node.load("a100_mig")
    node.set("gpu 1", "mig_mode", 1)
    node.set("gpu 1", "mig_slots", node.get("gpu 0", "mig_slots") or 7)
    mig_device(node, "mig 1.0", "MIG-x", "3g.20gb", gi=1, ci=0, memory_total_mib=19968)
    groups = next(start(node, vgpu_memory="5GiB").fingerprints())
    assert shares(groups) == {f"{A100} MIG 3g.20gb": (9, 6656)}


def test_compute_instances_of_one_memory_do_not_promise_it_twice(
    node: FakeDriver, start: Start
) -> None:
    """NVML gives each the whole of the GPU instance's memory; their shares fit on it together."""
    node.load("a100_mig_subsliced")
    host = start(node, vgpu_memory="6GiB")
    groups = {g.attributes["mig"].value: g for g in next(host.fingerprints())}
    parts = [groups["1c.3g.20gb"], groups["2c.3g.20gb"]]
    assert [g.attributes["memory"].value for g in parts] == [19968, 19968]
    assert sum(_promised(g) for g in parts) <= 19968
    assert _promised(groups["3g.20gb"]) == 19968
    assert all(_share(g) >= 6 * 1024 for g in groups.values())
    (part,) = parts[0].instances
    assert host.reserve([part.id]).envs["NVIDIA_VGPU_MEMORY_MIB"] == "6656"


def _share(group: DeviceGroup) -> int:
    value = group.attributes["vgpu_memory"].value
    assert isinstance(value, int)
    return value


def _promised(group: DeviceGroup) -> int:
    return _share(group) * len(group.instances)


def test_a_layout_that_changes_under_us_is_divided_anew(node: FakeDriver, start: Start) -> None:
    """Old parts leave and new ones are divided by the block for their profile, in a running plugin."""
    node.load("a100_mig")
    host = start(node, vgpus=1, gpu={"* MIG 1g.5gb": {"vgpus": 2}, "* MIG 3g.20gb": {"vgpus": 3}})
    stream = host.fingerprints()
    first_in(stream, lambda groups: shares(groups).get(f"{A100} MIG 3g.20gb") == (6, 6656))
    old = fact(node, "mig 0.0", "uuid")
    assert host.reserve([f"{old}-2"]).envs["NVIDIA_VISIBLE_DEVICES"] == old
    for section in ("mig 0.0", "mig 0.2"):
        node.remove_section(section)
    mig_device(node, "mig 0.1", "MIG-new", "1g.5gb", gi=9, ci=0, memory_total_mib=4864)
    first_in(stream, lambda groups: shares(groups).get(f"{A100} MIG 1g.5gb") == (2, 2432))
    first_in(host.fingerprints(), lambda groups: old not in healthy(groups))
    with pytest.raises(Refused, match="is not a vGPU of this node now"):
        host.reserve([f"{old}-2"])


def test_what_old_tasks_hold_is_not_offered(node: FakeDriver, start: Start) -> None:
    """The first fingerprint already withholds what a task of another division was promised."""
    node.load("h100x8")
    uuid = fact(node, "gpu 0", "uuid")
    before = start(node, vgpus=16).reserve([f"{uuid}-3", f"{uuid}-12"]).envs
    with any_task() as task:
        task.start({**before, "NOMAD_ALLOC_ID": task.allocation, "NOMAD_TASK_NAME": "train"})
        stream = start(node, vgpus=8).fingerprints()
        instances = {i.id: i for g in next(stream) for i in g.instances}
        held = {id_ for id_, instance in instances.items() if not instance.healthy}
        assert held == {f"{uuid}-3"}  # two sixteenths are an eighth
        assert "divided or grouped otherwise" in instances[f"{uuid}-3"].health_description
    first_in(stream, lambda groups: not reasons(groups))


def test_the_plan_of_a_mixed_node_says_why(node: FakeDriver, tmp_path: Path) -> None:
    """`nvidia-vgpu plan` reads an agent's file with blocks, looks at the node, and explains."""
    node.load("mixed")
    config = tmp_path / "agent.hcl"
    config.write_text(
        'plugin "nvidia-vgpu" {\n  config {\n    vgpu_memory = "10GiB"\n'
        '    gpu "*T4*" {\n      vgpus = 3\n    }\n'
        '    gpu "00010000:03:00.0" {\n      ignored = true\n    }\n  }\n}\n'
    )
    done = subprocess.run(
        [PROGRAM, "plan", "--config", config, "--json"],
        env={**os.environ, **node.environment()},
        capture_output=True,
        text=True,
        check=True,
    )
    gpus = {gpu["model"]: gpu for gpu in json.loads(done.stdout)["gpus"]}
    assert gpus["Tesla T4"]["decided_by"]["size"] == 'gpu "*T4*"'
    assert gpus["NVIDIA L40S"]["vgpus"] == 4
    assert gpus[A100]["ignored"] is True
