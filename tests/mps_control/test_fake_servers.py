# SPDX-License-Identifier: MPL-2.0
"""What the fake promises about servers, clients and the limits that reach them (GSF b4)."""

import subprocess
from pathlib import Path

import pytest
from libnvidia_ml.driver import FakeDriver

from .control import ComputeMode, FakeMps
from .node import PATIENCE_S, Gpu, wait_until

LIMIT = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
PERCENTAGE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"


def test_the_first_client_starts_the_server(gpu: Gpu) -> None:
    """There is no server until a client comes, and the server stays when it has gone."""
    gpu.start()
    facts = gpu.client()
    assert facts["error"] == 0
    assert facts["server"] == gpu.server()
    assert gpu.ask(f"get_server_status {gpu.server()}") == "ACTIVE"
    assert gpu.client()["server"] == gpu.server()


def test_a_server_can_be_started_beforehand(gpu: Gpu) -> None:
    """`start_server` starts one for clients to find."""
    gpu.start()
    gpu.tell("start_server -uid 1000")
    wait_until(lambda: gpu.ask(f"get_server_status {gpu.server()}") == "ACTIVE")
    assert gpu.client("--uid", "1000")["server"] == gpu.server()


def test_a_server_keeps_the_defaults_of_its_start(gpu: Gpu) -> None:
    """New defaults reach servers that are started later and no other."""
    gpu.start()
    gpu.tell("set_default_active_thread_percentage 50", "set_default_device_pinned_mem_limit 0 4G")
    gpu.client()
    gpu.tell("set_default_active_thread_percentage 20", "set_default_device_pinned_mem_limit 0 1G")
    facts = gpu.client()
    assert (facts["percentage"], facts["memory_mib"]) == (50.0, 4096)
    assert gpu.ask(f"get_active_thread_percentage {gpu.server()}") == "50.0"
    assert gpu.ask(f"get_device_pinned_mem_limit {gpu.server()} 0") == "4G"


def test_a_servers_own_settings_reach_new_clients_only(gpu: Gpu) -> None:
    """The per-server setters change what the next client gets."""
    gpu.start()
    held = gpu.hold()
    assert held.line()["memory_mib"] is None
    server = gpu.server()
    gpu.tell(
        f"set_active_thread_percentage {server} 10", f"set_device_pinned_mem_limit {server} 0 2G"
    )
    facts = gpu.client()
    assert (facts["percentage"], facts["memory_mib"]) == (10.0, 2048)
    assert gpu.ask("get_default_active_thread_percentage") == "100.0"


@pytest.mark.parametrize(
    ("own", "memory_mib"),
    [("0=1G", 1024), ("0=512MB", 512), ("{uuid}=1G", 1024), ("0=8G", 4096), ("0=nonsense", 4096)],
)
def test_a_client_can_only_lower_its_memory(gpu: Gpu, own: str, memory_mib: int) -> None:
    """The smaller of the server's limit and the client's own holds, by ordinal or UUID."""
    gpu.start()
    gpu.tell("set_default_device_pinned_mem_limit 0 4G")
    assert gpu.client(**{LIMIT: own.format(uuid=gpu.uuid)})["memory_mib"] == memory_mib


@pytest.mark.parametrize(("own", "percentage"), [("25", 25.0), ("80", 50.0), ("0", 50.0)])
def test_a_client_can_only_lower_its_percentage(gpu: Gpu, own: str, percentage: float) -> None:
    """The smaller of the two percentages holds."""
    gpu.start()
    gpu.tell("set_default_active_thread_percentage 50")
    assert gpu.client(**{PERCENTAGE: own})["percentage"] == percentage


def test_a_key_for_an_invisible_gpu_drops_every_limit(gpu: Gpu, other: Gpu) -> None:
    """One such entry frees the client of its own limits and of the server's."""
    gpu.start()
    gpu.tell("set_default_device_pinned_mem_limit 0 4G")
    for stranger in (other.uuid, "1"):
        assert gpu.client(**{LIMIT: f"0=1G,{stranger}=1G"})["memory_mib"] is None


def test_clients_see_the_daemons_gpu_as_the_first(gpu: Gpu, other: Gpu) -> None:
    """Ordinals are counted again behind the daemon, and another GPU is none there."""
    gpu.start()
    assert gpu.client(CUDA_VISIBLE_DEVICES="0")["device"] == gpu.uuid
    assert gpu.client(CUDA_VISIBLE_DEVICES=gpu.uuid[:12])["device"] == gpu.uuid
    assert gpu.client(CUDA_VISIBLE_DEVICES=other.uuid)["error"] == 100
    assert gpu.client(CUDA_VISIBLE_DEVICES="1")["error"] == 100


@pytest.mark.parametrize(
    ("mode", "error"), [("DEFAULT", 0), ("EXCLUSIVE_PROCESS", 805), ("PROHIBITED", 46)]
)
def test_a_client_that_meets_no_daemon(
    gpu: Gpu, mps: FakeMps, mode: ComputeMode, error: int
) -> None:
    """In the default mode it runs without any limit, and otherwise it fails."""
    mps.set_compute_mode(mode)
    facts = gpu.client(**{LIMIT: "0=1G", PERCENTAGE: "10"})
    assert (facts["error"], facts["server"], facts["memory_mib"]) == (error, None, None)
    assert gpu.client("--compute-mode", "DEFAULT")["error"] == 0


def test_an_exclusive_gpu_that_no_server_holds(gpu: Gpu, other: Gpu, mps: FakeMps) -> None:
    """If a test wants it so, whoever comes before the first server gets the GPU unlimited."""
    mps.set_compute_mode("EXCLUSIVE_PROCESS")
    mps.open_exclusive_gpus()
    gpu.start()
    elsewhere = {"CUDA_MPS_PIPE_DIRECTORY": str(other.pipe)}
    facts = gpu.client(**elsewhere)
    assert (facts["error"], facts["memory_mib"]) == (0, None)
    assert gpu.client()["error"] == 0
    assert gpu.client(**elsewhere)["error"] == 805


def test_a_client_follows_the_fake_driver(gpu: Gpu, mps: FakeMps, tmp_path: Path) -> None:
    """A mode that was set through NVML is the one that a client finds on that GPU."""
    driver = FakeDriver(tmp_path, tmp_path / "node", "h100x8")
    mps.follow_compute_modes(driver.modes_path)
    uuid = driver.get("gpu 1", "uuid") or ""
    assert gpu.client(CUDA_VISIBLE_DEVICES=uuid)["error"] == 0
    driver.set_compute_mode("gpu 1", 3)
    assert gpu.client(CUDA_VISIBLE_DEVICES=uuid)["error"] == 805
    driver.reload_driver()
    assert gpu.client(CUDA_VISIBLE_DEVICES=uuid)["error"] == 0


def test_another_user_waits_for_the_first(gpu: Gpu) -> None:
    """Without multi-user a second uid hangs until the first has left, and gets its own server."""
    gpu.start()
    first = gpu.hold("--uid", "1000")
    server = first.line()["server"]
    second = gpu.hold("--uid", "2000")
    wait_until(lambda: len(gpu.mps.clients(gpu.pipe)) == 2)
    assert gpu.client("--uid", "1000")["server"] == server
    assert not second.has_spoken()
    first.end()
    assert second.line()["server"] not in (None, server)
    assert gpu.ask("get_server_list") != str(server)


def test_a_multi_user_server_takes_everybody(gpu: Gpu) -> None:
    """With it clients of two uids are on one server at once."""
    gpu.start("-multiuser-server")
    first, second = gpu.hold("--uid", "1000"), gpu.hold("--uid", "2000")
    assert first.line()["server"] == second.line()["server"]
    assert set(gpu.tell(f"get_client_list {gpu.server()}")) == {str(first.pid), str(second.pid)}


def test_before_volta_multi_user_refuses_clients(gpu: Gpu, mps: FakeMps) -> None:
    """There a daemon starts and no client is served."""
    mps.pre_volta()
    gpu.start("-multiuser-server")
    assert gpu.client()["error"] == 805


def test_a_server_has_room_for_so_many_clients(gpu: Gpu, mps: FakeMps) -> None:
    """One client too many is refused, until another leaves."""
    mps.set_client_limit(2)
    gpu.start()
    held = [gpu.hold(), gpu.hold()]
    assert all(client.line()["error"] == 0 for client in held)
    assert gpu.client()["error"] == 808
    held[0].end()
    wait_until(lambda: gpu.client()["error"] == 0)


def test_lists_of_clients(gpu: Gpu) -> None:
    """Clients are listed by server, by device and by `ps`, as long as they live."""
    gpu.start()
    held = gpu.hold()
    held.line()
    server = gpu.server()
    assert gpu.ask(f"get_client_list {server}") == str(held.pid)
    assert gpu.tell("get_device_client_list") == [gpu.uuid, str(held.pid)]
    header, row = gpu.tell("ps")
    assert header.split()[:4] == ["PID", "ID", "SERVER", "DEVICE"]
    assert row.split()[:3] == [str(held.pid), "0", str(server)]
    held.end()
    wait_until(lambda: gpu.ask(f"get_client_list {server}") == "")


def test_a_fault_hits_all_clients_of_that_gpu_alone(gpu: Gpu, other: Gpu, mps: FakeMps) -> None:
    """The server refuses newcomers until every client of the fault has left, then recovers."""
    gpu.start()
    other.start()
    first, second = gpu.hold(), gpu.hold()
    server = first.line()["server"]
    second.line()
    mps.fault(gpu.pipe)
    assert gpu.ask(f"get_server_status {server}") == "FAULT"
    assert gpu.client()["error"] == 807
    assert other.client()["error"] == 0
    first.end()
    wait_until(lambda: gpu.ask(f"get_client_list {server}") == str(second.pid))
    assert gpu.client()["error"] == 807
    second.end()
    wait_until(lambda: gpu.ask(f"get_server_status {server}") == "ACTIVE")
    assert gpu.client()["error"] == 0


def test_a_client_can_be_terminated(gpu: Gpu) -> None:
    """`terminate_client` takes the server from one client and from no other."""
    gpu.start()
    first, second = gpu.hold(), gpu.hold()
    server = first.line()["server"]
    second.line()
    gpu.tell(f"terminate_client {server} {first.pid}")
    assert first.line()["error"] == 810
    assert first.process.wait(PATIENCE_S) == 1
    assert gpu.ask(f"get_client_list {server}") == str(second.pid)


def test_a_killed_server_takes_its_clients_along(gpu: Gpu, mps: FakeMps) -> None:
    """They fail, and the next client starts another server."""
    gpu.start()
    held = gpu.hold()
    server = held.line()["server"]
    mps.kill_server(gpu.pipe)
    assert held.line()["error"] == 806
    assert gpu.client()["server"] not in (None, server)


def test_a_killed_daemon_leaves_its_server_to_the_clients(gpu: Gpu, mps: FakeMps) -> None:
    """The server goes on until the last client leaves; the next daemon does not know it."""
    gpu.start()
    held = gpu.hold()
    server = held.line()["server"]
    mps.kill_daemon(gpu.pipe)
    gpu.start()
    assert gpu.ask("get_server_list") == ""
    assert [process.pid for process in mps.servers(gpu.pipe)] == [server]
    assert held.process.poll() is None
    held.end()
    wait_until(lambda: not mps.servers(gpu.pipe))


def test_quit_waits_for_clients_and_no_longer_than_told(gpu: Gpu, mps: FakeMps) -> None:
    """`quit` ends when the last client has left, `quit -t 0` at once."""
    gpu.start()
    held = gpu.hold()
    held.line()
    quitting = gpu.popen(mps.control)
    assert quitting.stdin is not None
    quitting.stdin.write("quit\n")
    quitting.stdin.close()
    wait_until(lambda: mps.commands(gpu.pipe))
    assert gpu.client()["error"] == 805
    assert quitting.poll() is None
    held.end()
    assert quitting.wait(PATIENCE_S) == 0
    assert not mps.daemons()
    gpu.start()
    held = gpu.hold()
    held.line()
    gpu.tell("quit -t 0")
    assert not mps.daemons()
    assert not mps.servers()
    assert held.line()["error"] == 806


def test_stop_all_ends_what_is_ours_alone(gpu: Gpu, other: Gpu, mps: FakeMps) -> None:
    """Every daemon, server and client is gone afterwards, and another process is not."""
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        for either in (gpu, other):
            either.start()
            either.hold().line()
        assert len(mps.daemons()) == len(mps.servers()) == len(mps.clients()) == 2
        mps.stop_all()
        assert not mps.daemons() + mps.servers() + mps.clients()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
