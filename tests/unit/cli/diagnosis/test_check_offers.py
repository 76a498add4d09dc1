# SPDX-License-Identifier: MPL-2.0
"""The checks of what Nomad offers."""

from __future__ import annotations

from pathlib import Path

from nomad_nvidia_vgpu.cli.diagnosis.check_offers import groups, sold_twice
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level
from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.gpu.model import SeenGpu
from nomad_nvidia_vgpu.sharing.withheld import WITHHELD
from unit.cli.diagnosis.nodes import assert_one, driver, facts, group, levels, offered, said, unread
from unit.example_gpus import LOST, gpu, mig

UUID = "GPU-00000000-1111-2222-3333-444444444444"
L4 = "NVIDIA L4"


def ids(uuid: str = "GPU-a", vgpus: int = 4) -> list[str]:
    """The vGPUs of one GPU."""
    return [f"{uuid}-{n}" for n in range(vgpus)]


ONE = driver(gpu("GPU-a"))


# groups


def test_nomad_offers_what_is_configured(tmp_path: Path) -> None:
    """The same groups with the same vGPUs, others' groups aside."""
    nomad = offered(group(L4, ids()), group("FPGA", ["f0"], vendor="intel"))
    assert_one(groups, facts(tmp_path, look=ONE, nomad=nomad), Level.OK, "all 4 vGPUs")


def test_a_config_that_changed_since_is_an_error(tmp_path: Path) -> None:
    """Nomad reads it at its start alone."""
    nomad = offered(group(L4, ids(vgpus=16)))
    found = facts(tmp_path, look=ONE, nomad=nomad)
    assert_one(groups, found, Level.ERROR, "16 vGPUs", "would publish 4", "restart the agent")


def test_other_ids_of_the_same_number_are_an_error(tmp_path: Path) -> None:
    """A GPU was replaced by another."""
    nomad = offered(group(L4, ids("GPU-z")))
    assert_one(
        groups, facts(tmp_path, look=ONE, nomad=nomad), Level.ERROR, "would publish 4 others"
    )


def test_groups_that_are_missing_or_too_many_are_errors(tmp_path: Path) -> None:
    """Each by its name."""
    nomad = offered(group("Tesla T4", ids("GPU-t")))
    found = said(groups, facts(tmp_path, look=ONE, nomad=nomad))
    assert [level for level, _ in found] == [Level.ERROR, Level.ERROR]
    assert "offers letmutx/gpu/Tesla T4" in found[0][1]
    assert "does not offer letmutx/gpu/NVIDIA L4" in found[1][1]


def test_what_nomad_has_as_unhealthy_is_an_error_with_its_reason(tmp_path: Path) -> None:
    """Once for all vGPUs of one reason."""
    sick = dict.fromkeys(ids(), "its MPS daemon does not answer")
    nomad = offered(group(L4, ids(), sick=sick))
    found = facts(tmp_path, look=ONE, nomad=nomad)
    assert_one(groups, found, Level.ERROR, "MPS daemon does not answer", "GPU-a-2 and 1 more")


def test_what_waits_for_tasks_to_end_is_a_warning(tmp_path: Path) -> None:
    """It frees itself."""
    nomad = offered(group(L4, ids(), sick={"GPU-a-0": WITHHELD}))
    assert_one(groups, facts(tmp_path, look=ONE, nomad=nomad), Level.WARNING, "GPU-a-0")


def test_a_fault_that_nomad_does_not_know_of_is_a_warning(tmp_path: Path) -> None:
    """It may have come a moment ago."""
    look = driver(SeenGpu(gpu("GPU-a"), LOST))
    found = facts(tmp_path, look=look, nomad=offered(group(L4, ids())))
    assert_one(groups, found, Level.WARNING, "still has")


def test_a_fault_that_both_know_is_told_elsewhere(tmp_path: Path) -> None:
    """As the health of the GPU."""
    look = driver(SeenGpu(gpu("GPU-a"), LOST))
    nomad = offered(group(L4, ids(), sick=dict.fromkeys(ids(), "lost")))
    assert_one(groups, facts(tmp_path, look=look, nomad=nomad), Level.OK)


def test_without_api_driver_or_config_nothing_is_judged(tmp_path: Path) -> None:
    """Each has a finding of its own."""
    nomad = offered(group(L4, ids()))
    assert levels(groups, facts(tmp_path, look=ONE)) == []
    assert (
        levels(groups, facts(tmp_path, look=driver(problem=Problem("x", "y")), nomad=nomad)) == []
    )
    assert levels(groups, facts(tmp_path, options="vgpus = 0", look=ONE, nomad=nomad)) == []
    assert levels(groups, unread(tmp_path, Problem("x"))) == []


# sold twice


def test_each_gpu_in_one_group_is_ok(tmp_path: Path) -> None:
    """MIG devices of one GPU may be in several."""
    look = driver(gpu("GPU-a"), mig("MIG-a", "GPU-p"), mig("MIG-b", "GPU-p", "1g.5gb"))
    nomad = offered(group("A", ids()), group("B", ids("MIG-a")), group("C", ids("MIG-b")))
    assert_one(sold_twice, facts(tmp_path, look=look, nomad=nomad), Level.OK)
    assert levels(sold_twice, facts(tmp_path)) == []


def test_the_official_plugin_beside_ours_is_an_error(tmp_path: Path) -> None:
    """Its id is the UUID itself."""
    nomad = offered(group(L4, ids()), group(L4, ["GPU-a"], vendor="nvidia"))
    found = facts(tmp_path, look=ONE, nomad=nomad)
    words = ("GPU-a is sold twice", "nvidia/gpu/NVIDIA L4 (GPU-a)", "ignored_gpu_ids")
    assert_one(sold_twice, found, Level.ERROR, *words)


def test_this_plugin_twice_is_an_error(tmp_path: Path) -> None:
    """Under another vendor, or under the same."""
    for vendor in ("second", "letmutx"):
        nomad = offered(group(L4, ids()), group(L4, ids(vgpus=2), vendor=vendor))
        assert_one(sold_twice, facts(tmp_path, look=ONE, nomad=nomad), Level.ERROR, "GPU-a")


def test_a_gpu_and_its_mig_device_are_one_card(tmp_path: Path) -> None:
    """A plugin without an idea of MIG offers the parent."""
    look = driver(mig("MIG-a", "GPU-p"))
    nomad = offered(group("A", ids("MIG-a")), group("B", ["GPU-p"], vendor="other"))
    assert_one(
        sold_twice, facts(tmp_path, look=look, nomad=nomad), Level.ERROR, "GPU-p is sold twice"
    )


def test_it_is_found_without_a_driver_too(tmp_path: Path) -> None:
    """UUIDs have a form of their own."""
    nomad = offered(group("A", ids(UUID)), group("A", [UUID], vendor="nvidia"), group("B", ["x"]))
    found = facts(tmp_path, look=driver(problem=Problem("x", "y")), nomad=nomad)
    assert_one(sold_twice, found, Level.ERROR, f"{UUID} is sold twice")
