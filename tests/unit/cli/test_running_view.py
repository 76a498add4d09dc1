# SPDX-License-Identifier: MPL-2.0
"""Whose view `gpus` and `top` show. The e2e tests ask a real agent."""

from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli import running_view as module
from nomad_nvidia_vgpu.cli.diagnosis.nomad_api import ApiGroup, NomadLook
from nomad_nvidia_vgpu.cli.running_view import RunningView, held_back, running_view
from nomad_nvidia_vgpu.config.decode import decode
from nomad_nvidia_vgpu.sharing.withheld import WITHHELD


def group(**instances: str) -> ApiGroup:
    """A device group with these vGPUs of GPU-a and GPU-b."""
    ids = {f"GPU-{name[0]}-{name[1:]}": reason for name, reason in instances.items()}
    return ApiGroup("letmutx", "gpu", "x", ids)


def test_a_gpu_is_held_back_when_nothing_of_it_is_offered() -> None:
    """For another reason than tasks that hold it; one healthy vGPU is enough to be offered."""
    assert held_back([group(a0="XID 79", a1="XID 79", b0="XID 79", b1="")]) == {"GPU-a": "XID 79"}
    assert held_back([group(a0=str(WITHHELD), a1=str(WITHHELD))]) == {}
    assert held_back([group(a0=str(WITHHELD), a1="lost")]) == {"GPU-a": "lost"}


def agent_file(tmp_path: Path) -> Path:
    """The file of an agent."""
    file = tmp_path / "nomad.hcl"
    file.write_text('data_dir = "/opt/nomad"\nports {\n http = 1234\n}\n')
    return file


def test_nomad_is_asked_where_the_files_lead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its word is shown for what it is."""
    monkeypatch.delenv("NOMAD_ADDR", raising=False)
    asked: list[str] = []

    def look(environment: dict[str, str], _name: str) -> NomadLook:
        asked.append(environment["NOMAD_ADDR"])
        return NomadLook("http://n", groups=(group(a0="XID 79"),))

    monkeypatch.setattr(module, "look_at_nomad", look)
    view = running_view([agent_file(tmp_path)])
    assert asked == ["http://127.0.0.1:1234"]
    assert view.among(["GPU-a", "GPU-c"]) == {"GPU-a": "XID 79"}
    assert "asked the driver, and Nomad (http://n)" in view.source


def test_without_an_answer_it_is_the_drivers_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which says why; where there are no agent's files nobody is asked at all."""
    silent = NomadLook("http://n", "refuses connections", refused=True)
    monkeypatch.setattr(module, "look_at_nomad", lambda _environment, _name: silent)
    view = running_view([agent_file(tmp_path)])
    assert "Nomad's API at http://n refuses connections: the running plugin may hold" in view.source
    monkeypatch.setattr(module, "look_at_nomad", None)
    (tmp_path / "block.hcl").write_text("vgpus = 4\n")
    assert (
        "only the driver was asked: no Nomad agent" in running_view([tmp_path / "block.hcl"]).source
    )


def test_top_knows_where_the_guard_cannot_act() -> None:
    """By the version of the Nomad that was asked and the agent's files; unasked, nothing is claimed."""
    kill = decode({"vgpus": 2, "memory_guard": {"action": "kill"}})
    view = RunningView("s", {}, "1.6.3", {"no_cgroups": True})
    assert "ends none of them" in str(view.unproven(kill))
    assert view.unproven(decode({"vgpus": 2})) is None
    assert view._replace(version=None).unproven(kill) is None
