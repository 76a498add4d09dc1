# SPDX-License-Identifier: MPL-2.0
"""Reading `/proc`, a made one and the real one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.host.proc import Identity, Proc
from nomad_nvidia_vgpu.tasks.claims import VARIABLES
from unit.host.made_proc import MadeProc, nomad_v2


def test_a_process_is_its_pid_and_its_start(tmp_path: Path) -> None:
    """The identity is pid and start time; the parent is told too."""
    made = MadeProc(tmp_path)
    made.add(7, started=1234, parent=3)
    standing = made.proc.standing(7)
    assert standing is not None
    assert standing == (Identity(7, 1234), 3)
    assert made.proc.lives(Identity(7, 1234))


@pytest.mark.parametrize("name", ["a b", ") S 1 2", "((", ":", "a\nb"])
def test_a_name_may_look_like_other_fields(tmp_path: Path, name: str) -> None:
    """Blanks and brackets in the name of a program do not shift what follows it."""
    made = MadeProc(tmp_path)
    made.add(7, started=55, parent=9, name=name)
    assert made.proc.standing(7) == (Identity(7, 55), 9)


def test_a_reused_pid_is_another_process(tmp_path: Path) -> None:
    """A process that started at another time is not the one that had the pid."""
    made = MadeProc(tmp_path)
    made.add(7, started=100)
    made.add(7, started=200)
    assert not made.proc.lives(Identity(7, 100))
    assert made.proc.lives(Identity(7, 200))


def test_who_is_gone_is_none(tmp_path: Path) -> None:
    """Of a process that has ended nothing is known, and nothing fails."""
    proc = MadeProc(tmp_path).proc
    assert proc.standing(7) is None
    assert proc.cgroups(7) is None
    assert proc.environment(7, VARIABLES) is None
    assert not proc.lives(Identity(7, 1))


def test_who_started_a_process_is_its_real_uid(tmp_path: Path) -> None:
    """Not the effective one, which a set-user-ID program has of another."""
    made = MadeProc(tmp_path)
    made.add(7, user=1234)
    assert made.proc.user(7) == 1234
    assert made.proc.user(8) is None


def test_no_name_forges_the_line_of_the_uids(tmp_path: Path) -> None:
    """Nor does a line that is cut off say anything."""
    made = MadeProc(tmp_path)
    made.add(7)
    status = made.root / "7/status"
    status.write_bytes(b"Name:\tUid:\t0\nUid:\t1000\t0\t0\t0\nGid:\t7\t7\t7\t7\n")
    assert made.proc.user(7) == 1000
    status.write_bytes(b"Uid:\t1000\t0\t0\t0")
    assert made.proc.user(7) == 1000
    for said in (b"", b"Name:\tx\n", b"Uid:\n", b"Uid:\tx\n"):
        status.write_bytes(said)
        assert made.proc.user(7) is None


def test_what_has_ended_is_not_called_anything(tmp_path: Path) -> None:
    """It keeps its name until its parent has been told."""
    made = MadeProc(tmp_path)
    made.add(7, name="nvidia-cuda-mps-server", parent=3)
    assert made.proc.called(7) == b"nvidia-cuda-mps"
    assert made.proc.parent(7) == 3
    assert set(made.proc.pids()) == {1, 7}
    (made.root / "7/stat").write_text("7 (a) (b) Z 3 0\n")
    assert made.proc.called(7) is None
    assert made.proc.called(8) is None
    assert made.proc.parent(8) is None
    assert made.proc.words(8) == []
    assert made.proc.mapped(8) is None
    assert made.proc.age_s(8) is None
    with pytest.raises(OSError, match="none"):
        Proc(str(tmp_path / "none")).pids()


def test_of_what_a_task_makes_long_only_the_start_is_read(tmp_path: Path) -> None:
    """As of its command line, and of the files that it maps."""
    made = MadeProc(tmp_path)
    made.add(7)
    for name in ("cmdline", "maps"):
        (made.root / f"7/{name}").touch()
        os.truncate(made.root / f"7/{name}", 1 << 40)
    assert sum(len(word) + 1 for word in made.proc.words(7)) < 100_000
    assert made.proc.mapped(7)


def test_an_environment_is_split_at_nuls(tmp_path: Path) -> None:
    """Values may hold blanks, line ends and equals signs; the first of two variables counts."""
    made = MadeProc(tmp_path)
    made.add(7)
    (made.root / "7/environ").write_bytes(
        b"A=1 2\nx\0AB=no\0B=c=d\0A=9\0nonsense\0XC=no\0D=\0E=\xff\0"
    )
    assert made.proc.environment(7, ("A", "B", "C", "D", "E")) == {
        "A": "1 2\nx",
        "B": "c=d",
        "D": "",
        "E": "\udcff",
    }


def test_only_what_is_asked_for_leaves_an_environment(tmp_path: Path) -> None:
    """A task's secrets are in it too, and must not get into our memory, logs or tracebacks."""
    made = MadeProc(tmp_path)
    made.add(7, environment={"NOMAD_TOKEN": "secret", "NVIDIA_VGPU_IDS": "GPU-a-0"})
    environment = made.proc.environment(7, VARIABLES)
    assert environment == {"NVIDIA_VGPU_IDS": "GPU-a-0"}
    assert not any("TOKEN" in name or "SECRET" in name for name in VARIABLES)


def test_an_environment_that_is_not_there_yet_is_unknown(tmp_path: Path) -> None:
    """A process that has just been started shows an empty environment."""
    made = MadeProc(tmp_path)
    made.add(7)
    assert made.proc.environment(7, VARIABLES) is None


def test_a_process_that_is_stuck_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds up nobody for long, the log names it once, and it is read again when it can be."""
    made = MadeProc(tmp_path)
    proc = made.proc
    for pid in (7, 8, 9):
        made.add(pid, environment={"NAME": str(pid)})
    made.get_stuck(8)
    for _ in range(2):
        found = [environment["NAME"] for _, environment in proc.environments([7, 8, 9], ["NAME"])]
        assert found == ["7", "9"]
        assert proc.environment(8, ["NAME"]) is None
    assert [pid for pid in (7, 8, 9) if proc.stuck(pid)] == [8]
    assert [thread.name for thread in threading.enumerate()].count("environ") == 1
    (told,) = caplog.messages
    assert "process 8 is stuck" in told
    made.get_going(8, {"NAME": "8"})
    assert not proc.stuck(8)
    assert proc.environment(8, ["NAME"]) == {"NAME": "8"}


def test_environments_can_be_asked_for_by_a_variable(tmp_path: Path) -> None:
    """Of processes that do not have it, nothing is told."""
    made = MadeProc(tmp_path)
    made.add(7, environment={"A": "1"})
    made.add(8, environment={"B": "1"})
    assert list(made.proc.environments([7, 8, 9], ["A", "B"], "B")) == [(8, {"B": "1"})]


def test_few_environments_are_in_memory_at_a_time(tmp_path: Path) -> None:
    """However many there are: who reads waits for who looks at them."""
    made = MadeProc(tmp_path)
    for pid in range(100, 200):
        made.add(pid, environment={"A": "x" * 100_000})
    tracemalloc.start()
    for number, _ in enumerate(made.proc.environments(range(100, 200), ["A"])):
        if number == 50:
            break
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number == 50
    assert peak < 2_000_000


def test_an_endless_environment_is_cut_off(tmp_path: Path) -> None:
    """A process that makes a huge environment costs no more than a large one."""
    made = MadeProc(tmp_path)
    made.add(7)
    (made.root / "7/environ").write_bytes(b"A=1\0" + b"B=" + b"x" * (4 << 20) + b"\0C=1\0")
    environment = made.proc.environment(7, ("A", "C"))
    assert environment == {"A": "1"}


def test_cgroups_of_a_process_and_of_ourselves(tmp_path: Path) -> None:
    """The lines are as the kernel writes them."""
    made = MadeProc(tmp_path, own="0::/system.slice/nomad.service\n")
    made.add(7, cgroup=nomad_v2())
    assert made.proc.cgroups(7) == nomad_v2()
    assert made.proc.cgroups("self") == "0::/system.slice/nomad.service\n"


@pytest.mark.parametrize(
    ("namespace", "host"), [("pid:[4026531836]", True), ("pid:[4026532198]", False)]
)
def test_whether_pids_are_the_hosts(tmp_path: Path, namespace: str, *, host: bool) -> None:
    """Only in the first namespace of pids do ours mean the same as the driver's."""
    assert MadeProc(tmp_path, pid_namespace=namespace).proc.sees_host_pids() is host


def test_the_real_one() -> None:
    """Of a real child: its parent, its environment, and that it ends."""
    child = subprocess.Popen(
        [sys.executable, "-Sc", "input()"], stdin=subprocess.PIPE, env={"MARK": "here"}
    )
    proc = Proc()
    standing = proc.standing(child.pid)
    assert standing is not None
    assert standing.parent == os.getpid()
    assert proc.lives(standing.identity)
    assert proc.cgroups(child.pid)
    assert proc.mounts()
    child.kill()
    child.communicate()
    assert not proc.lives(standing.identity)
    own = proc.environment(os.getpid(), ("PATH",))
    assert own == {"PATH": os.environ.get("PATH")}
