# SPDX-License-Identifier: MPL-2.0
"""What the tool and its daemon do: the fake of each version and the real one keep the same promises."""

import os
import re
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from .node import PATIENCE_S, ToolGpu, wait_until
from .real import DYING, put_server
from .state import SERVER, lock_holder

NOBODY = 65534
NO_DAEMON = "Cannot find MPS control daemon process\n"
PERCENTAGE = "default_active_thread_percentage"
MEMORY = "default_device_pinned_mem_limit"
PRIORITY = "default_client_priority"


def test_no_daemon(tool: ToolGpu) -> None:
    """The tool says so on stderr, also where one has been."""
    for _ in range(2):
        done = tool.run(text="get_server_list\n")
        assert (done.returncode, done.stdout, done.stderr) == (1, "", NO_DAEMON)
        pid = tool.start()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: lock_holder(tool.pipe) is None)


def test_the_daemon(tool: ToolGpu) -> None:
    """It has a session, streams and a name of its own, and holds the lock on its directory."""
    pid = tool.start()
    proc = Path(f"/proc/{pid}")
    assert os.getsid(pid) not in (os.getsid(0), 0)
    assert {str((proc / f"fd/{fd}").readlink()) for fd in range(3)} == {"/dev/null"}
    assert (proc / "comm").read_text() == "nvidia-cuda-mps\n"
    assert (proc / "cwd").readlink() == Path.cwd()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: lock_holder(tool.pipe) is None)


def modes(directory: Path) -> dict[str, str]:
    """Give kind and mode of each file, as ls would."""
    return {each.name: stat.filemode(each.lstat().st_mode) for each in directory.iterdir()}


def test_its_files(tool: ToolGpu) -> None:
    """Anybody may write into most of them; after `quit` some are left."""
    left = {
        "control": "srw-rw-rw-",
        "control_privileged": "srwxr-xr-x",
        "control_lock": "-rw-rw-rw-",
    }
    note = {"nvidia-cuda-mps-control.pid": "-rw-rw-rw-"} if tool.version.pid_file else {}
    pid = tool.start()
    assert modes(tool.pipe) == {**left, **note, "log": "prwxrwxrwx"}
    for name in note:
        assert (tool.pipe / name).read_text() == str(pid)
    assert modes(tool.log) == dict.fromkeys(("control.log", "server.log"), "-rw-r--r--")
    assert stat.S_IMODE(tool.pipe.stat().st_mode) == 0o777
    assert stat.S_IMODE(tool.log.stat().st_mode) == 0o700
    tool.tell("quit")
    wait_until(lambda: modes(tool.pipe) == left)


def test_one_daemon_for_each_directory(tool: ToolGpu) -> None:
    """A second is refused, with the same words each time, and a dead one is followed."""
    pid = tool.start()
    for _ in range(2):
        done = tool.run("-d")
        said = (done.returncode, done.stdout)
        assert said == (1, "An instance of this daemon is already running\n")
    assert lock_holder(tool.pipe) == pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: lock_holder(tool.pipe) is None)
    assert tool.start() != pid


def test_multi_user(tool: ToolGpu) -> None:
    """Where it is known the daemon has it; older tools read commands and end well."""
    assert tool.run("-d", "-multiuser-server").returncode == (0 if tool.version.multi_user else 1)
    if not tool.version.multi_user:
        tool.start()
        done = tool.run("-d", "-multiuser-server", text=f"get_{PERCENTAGE}")
        assert (done.returncode, done.stdout) == (0, "100.0\n")
    else:
        done = tool.run("-d", "-multiuser-server", user=NOBODY)
        assert done.returncode == 1
        assert done.stdout.endswith("\nOnly root user may enable -multiuser-server!\n")


@pytest.mark.parametrize("option", ["-M", "-S", "-v", "--version", "-foo"])
def test_options_that_are_none(tool: ToolGpu, option: str) -> None:
    """A strict tool explains itself on stdout; another looks for a daemon to talk to."""
    done = tool.run("-d", option)
    assert done.returncode == 1
    assert done.stdout.startswith("CUDA MPS Control for Linux/Unix.") is tool.version.strict_options
    assert done.stderr == ("" if tool.version.strict_options else NO_DAEMON)
    assert lock_holder(tool.pipe) is None


def test_help(tool: ToolGpu) -> None:
    """It needs no daemon."""
    done = tool.run("--help")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "CUDA MPS Control for Linux/Unix.")
    assert len(done.stdout.splitlines()) == 5


def test_directories_that_cannot_be_made(tool: ToolGpu, short: Path) -> None:
    """Only the last part is made: without its pipes there is no daemon, without its logs one is."""
    missing = short / "a" / "b"
    tool.environment["CUDA_MPS_PIPE_DIRECTORY"] = str(missing)
    done = tool.run("-d")
    said = (done.returncode, done.stdout.splitlines()[-1])
    assert said == (1, f"Cannot access CUDA_MPS_PIPE_DIRECTORY={missing}")
    tool.environment["CUDA_MPS_PIPE_DIRECTORY"] = str(tool.pipe)
    tool.environment["CUDA_MPS_LOG_DIRECTORY"] = str(missing)
    done = tool.run("-d")
    warning = (
        f"Warning: Failed writing log files to directory [{missing}]. No logs will be available."
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, warning)
    assert lock_holder(tool.pipe)


def test_the_longest_path(tool: ToolGpu, short: Path) -> None:
    """87 bytes are enough, and from 88 on there is no daemon and no word."""
    for length, code in ((88, 1), (87, 0)):
        pipe = f"{short}/{'x' * (length - len(str(short)) - 1)}"
        tool.environment["CUDA_MPS_PIPE_DIRECTORY"] = pipe
        done = tool.run("-d")
        assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
        assert (lock_holder(Path(pipe)) is None) == bool(code)
    os.kill(lock_holder(Path(pipe)) or 0, signal.SIGKILL)


def test_its_environment(tool: ToolGpu) -> None:
    """It takes a percentage and a priority for defaults, and no memory limit."""
    tool.environment |= {
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "40",
        "CUDA_MPS_CLIENT_PRIORITY": "1",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=2G",
    }
    tool.start()
    assert tool.tell(f"get_{PERCENTAGE}", f"get_{MEMORY} 0", f"get_{PRIORITY}") == ["40.0", "1"]


def test_one_prompt_at_a_time(tool: ToolGpu) -> None:
    """While one is open nobody else gets an answer, and none of that is the death of the daemon."""
    tool.start()
    prompt = tool.popen(tool.control)
    assert prompt.stdin is not None
    wait_until(lambda: "NEW UI" in (tool.log / "control.log").read_text())
    for _ in range(8):
        done = tool.run(text=f"get_{PERCENTAGE}\n")
        assert done.stdout == ""
        assert done.stderr in ("", "Cannot send command to MPS control daemon process\n")
        assert done.returncode in (0, 1)
    prompt.stdin.close()
    assert prompt.wait(PATIENCE_S) == 0
    wait_until(lambda: tool.run(text=f"get_{PERCENTAGE}\n").stdout == "100.0\n")


def test_who_may_set(tool: ToolGpu) -> None:
    """Any user may ask; an old daemon also obeys any user."""
    tool.start()
    lines = (f"set_{PERCENTAGE} 30", f"set_{MEMORY} 0 2G", f"set_{PRIORITY} 1")
    done = tool.run(text="\n".join(lines), user=NOBODY)
    assert done.returncode == 0
    read = [f"get_{PERCENTAGE}", f"get_{MEMORY} 0", f"get_{PRIORITY}"]
    if not tool.version.guarded:
        assert done.stdout == "30.0\n"
        assert tool.tell(*read) == ["30.0", "2G", "1"]
        return
    refused = (
        "Insufficient privileges for UID 65534. Control deamon settings can only be modified by the"
        " user started it or by the root user."
    )
    assert done.stdout.splitlines() == [refused] * 3
    assert tool.run(text="\n".join(read), user=NOBODY).stdout == "100.0\n0\n"


def test_who_may_not(tool: ToolGpu) -> None:
    """Another user's server and the daemon itself are not anybody's to start and to end."""
    pid = tool.start()
    server = started(tool)
    lines = ("start_server -uid 0", f"shutdown_server {server} -f", "quit", "quit -t 0")
    done = tool.run(text="\n".join(lines), user=NOBODY)
    refused = "Insufficient privileges for UID 65534"
    long = (
        ". Only the root user may start server for another user.",
        ". Only the root user may shutdown another user's server.",
    )
    assert done.stdout.splitlines() == [
        *(refused + (why if tool.version.guarded else "") for why in long),
        *["Not enough privilege to execute quit command"] * 2,
    ]
    assert tool.server() == server
    assert lock_holder(tool.pipe) == pid


def started(tool: ToolGpu) -> int:
    """Start a server and give its pid."""
    assert tool.tell("start_server -uid 0") == []
    wait_until(lambda: tool.ask("get_server_list"))
    return tool.server()


def test_a_server_that_is_not_ready(tool: ToolGpu) -> None:
    """It is listed, nothing can be set or read of it, and a second is not started."""
    tool.start()
    pid = started(tool)
    status = "INITIALIZING" if tool.version.server_status else 'Unknown command "get_server_status"'
    lines = [
        f"get_server_status {pid}",
        f"get_client_list {pid}",
        f"set_active_thread_percentage {pid} 30",
        f"get_active_thread_percentage {pid}",
        f"set_device_pinned_mem_limit {pid} 0 1G",
        f"get_device_pinned_mem_limit {pid} 0",
        "start_server -uid 0",
        "get_device_client_list",
        "ps",
        f"terminate_client {pid} 1",
        f"shutdown_server {pid}",
        "get_server_list",
    ]
    end = ["Server not found", f"Server {pid} not found!", "1", str(pid)]
    assert tool.tell(*lines) == [status, *end]
    proc = Path(f"/proc/{pid}")
    assert (proc / "comm").read_text() == "nvidia-cuda-mps\n"
    assert SERVER in (proc / "cmdline").read_text()
    assert tool.tell(f"shutdown_server {pid} -f") == []
    wait_until(lambda: tool.ask("get_server_list") == "")
    assert "exited with status 0" in (tool.log / "control.log").read_text()


def test_a_server_outlives_a_killed_daemon(tool: ToolGpu) -> None:
    """The next daemon does not know it, and the lock is free though the server has the file."""
    daemon = tool.start()
    server = started(tool)
    os.kill(daemon, signal.SIGKILL)
    wait_until(lambda: lock_holder(tool.pipe) is None)
    tool.start()
    assert tool.ask("get_server_list") == ""
    assert Path(f"/proc/{server}/comm").read_text() == "nvidia-cuda-mps\n"


@pytest.mark.parametrize("missing", [True, False])
def test_a_server_that_does_not_start(tool: ToolGpu, *, missing: bool) -> None:
    """It is looked for in the daemon's PATH; control.log alone tells, and the daemon lives."""
    put_server(tool.control.parent, DYING)
    if missing:
        (tool.control.parent / SERVER).unlink()
    pid = tool.start()
    tool.run(text="start_server -uid 0\n")
    wait_until(lambda: "exited with status 1" in (tool.log / "control.log").read_text())
    wait_until(lambda: tool.ask("get_server_list") == "")
    said = re.sub(r"\d+", "#", (tool.log / "control.log").read_text())
    assert "Starting new server # for user #" in said
    assert "Server # exited with status #" in said
    assert (tool.log / "server.log").read_text() == ""
    assert lock_holder(tool.pipe) == pid


def test_quit_with_a_time(tool: ToolGpu) -> None:
    """`quit -t` ends what does not end by itself."""
    tool.start()
    server = started(tool)
    assert tool.tell("quit -t 0") == []
    wait_until(lambda: lock_holder(tool.pipe) is None)
    assert tool.run(text="get_server_list\n").stderr == NO_DAEMON
    wait_until(lambda: not Path(f"/proc/{server}/exe").exists())


def test_quit_without_a_time_may_never_end(tool: ToolGpu) -> None:
    """It waits for the server, keeps the door shut meanwhile, and `quit -t` still ends all."""
    pid = tool.start()
    started(tool)
    quitting = tool.popen(tool.control)
    assert quitting.stdin is not None
    quitting.stdin.write("quit\n")
    quitting.stdin.flush()
    wait_until(lambda: "Cmd:quit" in (tool.log / "control.log").read_text())
    assert tool.run(text=f"get_{PERCENTAGE}\n").stdout == ""
    assert quitting.poll() is None
    assert lock_holder(tool.pipe) == pid
    quitting.kill()
    quitting.wait()
    wait_until(lambda: tool.run(text="quit -t 0\n") and lock_holder(tool.pipe) is None)


def test_the_log(tool: ToolGpu) -> None:
    """Each line has a time, a role and a pid, and each command leaves several."""
    pid = tool.start()
    tool.tell(f"set_{PERCENTAGE} 101", f"get_{MEMORY} 0")
    wait_until(lambda: "UI closed" in (tool.log / "control.log").read_text())
    lines = (tool.log / "control.log").read_text().splitlines()
    form = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} Control +(\d+)\] (.*)")
    matches = [form.fullmatch(line) for line in lines]
    assert all(match and match[1] == str(pid) for match in matches)
    assert [match[2] for match in matches if match] == [
        f"Starting control daemon using socket {tool.pipe}/control",
        f"To connect CUDA applications to this daemon, set env CUDA_MPS_PIPE_DIRECTORY={tool.pipe}",
        "Accepting connection...",
        "NEW UI",
        f"Cmd:set_{PERCENTAGE} 101",
        "Invalid percentage, expected between (0.0, 100.0]",
        "100.0",
        f"Cmd:get_{MEMORY} 0",
        "No default pinned memory limit set for the device!",
        "UI closed",
    ]


def test_anybody_can_stop_the_log_and_hang_the_daemon(tool: ToolGpu) -> None:
    """A line of a stranger in the FIFO `log` ends both logs; once that is full nobody is answered."""
    pid = tool.start()
    subprocess.run(
        ["/bin/sh", "-c", f"printf '%76s\\n' x >{tool.pipe}/log"], user=NOBODY, check=True
    )
    line = f"get_{PERCENTAGE}\n"
    assert tool.run(text=line).stdout == "100.0\n"
    size = (tool.log / "control.log").stat().st_size
    assert tool.run(text=line).stdout == "100.0\n"
    assert (tool.log / "control.log").stat().st_size == size
    hung = tool.popen(tool.control)
    assert hung.stdin is not None
    hung.stdin.write(line * 600)
    hung.stdin.close()
    with pytest.raises(subprocess.TimeoutExpired):
        hung.wait(1)
    assert lock_holder(tool.pipe) == pid


def test_a_stopped_daemon_answers_nobody(tool: ToolGpu) -> None:
    """The tool waits for as long as that takes."""
    pid = tool.start()
    os.kill(pid, signal.SIGSTOP)
    asking = tool.popen(tool.control)
    assert asking.stdin is not None
    asking.stdin.write(f"get_{PERCENTAGE}\n")
    asking.stdin.close()
    with pytest.raises(subprocess.TimeoutExpired):
        asking.wait(0.5)
    os.kill(pid, signal.SIGCONT)
    assert asking.wait(PATIENCE_S) == 0


def test_the_foreground(tool: ToolGpu) -> None:
    """`-f` is the daemon itself, and its log is on stdout."""
    process = tool.popen(tool.control, "-f")
    wait_until(lambda: lock_holder(tool.pipe) == process.pid)
    wait_until(lambda: tool.run(text="quit\n") and process.poll() is not None)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert "Starting control daemon using socket" in out
