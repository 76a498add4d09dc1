# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu cluster`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nomad_nvidia_vgpu.cli.main import run
from unit.cli.cluster.made_cluster import allocation, cluster, device_group, node, serving

HELD = allocation("aa", "n1", "NVIDIA L4", "GPU-l4-0-0", "GPU-l4-0-1", job="train")
ANSWERS = {
    **cluster([node(f"n{n}", device_group()) for n in range(3)], [HELD]),
    "/v1/client/stats": {"DeviceStats": []},
}


def shown(*flags: str, **other: Any) -> int:
    """The exit status."""
    with serving({**ANSWERS, **other}) as served:
        return run(["cluster", "--address", served.address, *flags])


def names(out: str) -> list[str]:
    """The nodes of a table, in order."""
    return [line.split()[0] for line in out.splitlines() if line.startswith("n")]


def test_all_nodes_and_their_sum(capsys: pytest.CaptureFixture[str]) -> None:
    """A row each."""
    assert shown() == 0
    out = capsys.readouterr().out
    assert names(out) == ["n0", "n1", "n2"]
    assert "all nodes (3)" in out


@pytest.mark.parametrize(
    ("flags", "order"),
    [
        (("--sort", "used"), ["n1", "n0", "n2"]),
        (("--sort", "free"), ["n0", "n2", "n1"]),
        (("--sort", "largest"), ["n0", "n2", "n1"]),
        (("--job", "train"), ["n1"]),
        (("--limit", "2"), ["n0", "n1"]),
        (("--limit", "0"), ["n0", "n1", "n2"]),
    ],
)
def test_sorted_filtered_and_cut(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], order: list[str]
) -> None:
    """What is cut is said, and is in the sum."""
    assert shown(*flags) == 0
    said = capsys.readouterr()
    assert names(said.out) == order
    assert ("1 more nodes: --limit 0 shows all" in said.err) is ("2" in flags)


def test_one_node_is_shown_gpu_by_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    """As `top` does."""
    assert shown("--node", "n1") == 0
    assert "train/work/main" in capsys.readouterr().out


def test_machines_get_all_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    """Those beyond the limit too, without their memory."""
    assert shown("--json", "--limit", "1") == 0
    document = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in document["nodes"]] == ["n0", "n1", "n2"]


def test_nothing_of_what_is_wanted_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """With what was wanted."""
    assert shown("--model", "B200") == 1
    assert "knows 3 nodes, and none offers vGPUs of this plugin with model B200" in (
        capsys.readouterr().err
    )


def test_it_looks_again_until_it_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A document a line for machines; Ctrl-C is a good end, and a note is said once."""
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("nomad_nvidia_vgpu.cli.cluster.cluster.time.sleep", nap)
    assert shown("--watch", "--json", "--interval", "3", "--limit", "1") == 0
    said = capsys.readouterr()
    assert len([json.loads(line) for line in said.out.splitlines()]) == 2
    assert naps == [3.0, 3.0]
    assert said.err.count("more nodes") == 1
