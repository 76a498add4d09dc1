# SPDX-License-Identifier: MPL-2.0
"""What belongs to this test run, and its end: nothing of a run outlives it, not even if it is killed.

`with this_run.kept(folders)` starts a guard, which is this file as a program. It waits for the run
to end, ends what the run has started, and takes away its mounts, cgroups and short folders. A
process belongs to a run if it has `MARK` in its environment; or if it works in a folder of the run,
or names such a folder in its environment, and has no terminal: a person may look at a folder, too.

Only the standard library is imported: the guard starts without anything else.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

TOKEN = uuid.uuid4().hex
"""Tells this run from all others; a worker of pytest-xdist is a run of its own."""
MARK = {"VGPU_TEST_RUN": TOKEN}
"""For the environment of a process that does not inherit ours."""
CGROUP = "nvidia-vgpu-test-{token}"
"""How the cgroups of a run begin that stand at the top of a hierarchy."""

_PATIENCE_S = 10.0
_POLL_S = 0.1
_LOOKS = 2
"""A process can start another one while it is ended: so often nothing must be found in a row."""
_LAZY = 2  # MNT_DETACH
_KEPT = "k"


def join() -> None:
    """Belongs to the run that has started this process, so that its guard ends what we start."""
    global TOKEN  # noqa: PLW0603  a program does so once, before all else
    TOKEN = os.environ.get("VGPU_TEST_RUN", TOKEN)
    MARK["VGPU_TEST_RUN"] = TOKEN


def short_folder() -> Path:
    """A folder of this run for sockets, whose names can have 107 bytes; all users may pass it."""
    place = _short_folder(TOKEN)
    place.mkdir(mode=0o755, exist_ok=True)
    place.chmod(0o755)
    return place


def new_folder(prefix: str) -> Path:
    """A folder with a short name that people can look at after the run, in the folder of the run."""
    kept_folder = short_folder() / _KEPT
    kept_folder.mkdir(mode=0o700, exist_ok=True)
    place = kept_folder / f"{prefix}{len(list(kept_folder.iterdir()))}"
    place.mkdir()
    return place


def _short_folder(token: str) -> Path:
    return Path(f"/tmp/v{token[:8]}")  # tmp_path is too long


@contextlib.contextmanager
def kept(folders: Sequence[Path]) -> Iterator[None]:
    """Has a guard for the block; AssertionError if something still runs at its end.

    `folders` are those in which the run works.
    """
    os.environ.update(MARK)
    # A worker of pytest-xdist would go on without its controller for a while.
    watched = [os.getpid(), *([os.getppid()] if "PYTEST_XDIST_WORKER" in os.environ else [])]
    command = [sys.executable, "-IS", __file__, TOKEN, ",".join(map(str, watched))]
    guard = subprocess.Popen(
        [*command, *map(str, folders)],
        env={},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.kill()
        guard.wait()
        places = [*map(str, folders), str(_short_folder(TOKEN))]
        left = _still_running(places)
        _clean_up(TOKEN, places)
    assert not left, f"the tests have left running: {left}"


def _still_running(places: Sequence[str]) -> list[str]:
    """The command lines of what does not end by itself in time."""
    deadline = time.monotonic() + _PATIENCE_S
    while (pids := list(_own(TOKEN, places))) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return [_read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace") for pid in pids]


def _own(token: str, places: Sequence[str]) -> Iterator[int]:
    """The processes of a run except for the one that looks; what has ended and is not waited for is none."""
    mark = f"VGPU_TEST_RUN={token}".encode()
    for name in os.listdir("/proc"):  # noqa: PTH208  some hundred names
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        environment = _read(int(name), "environ")
        if mark in environment or (
            _has_no_terminal(int(name)) and _is_in(name, environment, places)
        ):
            yield int(name)


def _is_in(name: str, environment: bytes, places: Sequence[str]) -> bool:
    try:
        cwd = os.readlink(f"/proc/{name}/cwd")  # noqa: PTH115
    except OSError:
        cwd = ""
    return any(f"{cwd}/".startswith(f"{place}/") for place in places) or any(
        f"{place}/".encode() in environment for place in places
    )


def _has_no_terminal(pid: int) -> bool:
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return bool(fields) and fields[0] not in (b"Z", b"X") and fields[4] == b"0"


def _read(pid: int, file: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:
        return b""  # it has ended, or is another user's


def _clean_up(token: str, places: Sequence[str]) -> None:
    """Ends and removes all of a run but its own folders, which pytest keeps for people."""
    quiet = 0
    deadline = time.monotonic() + _PATIENCE_S
    while quiet < _LOOKS and time.monotonic() < deadline:
        pids = list(_own(token, places))
        quiet = 0 if pids else quiet + 1
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if quiet < _LOOKS and pids:
            time.sleep(_POLL_S)
    _unmount(places)
    # A cgroup is removed with those below it, from the innermost on; files in it go by themselves.
    for hierarchy in ("", "*/"):
        for top in Path("/sys/fs/cgroup").glob(f"{hierarchy}{CGROUP.format(token=token)}*"):
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
    with contextlib.suppress(OSError):  # there is none
        shutil.move(_short_folder(token) / _KEPT, Path(places[0]) / "kept")
    shutil.rmtree(_short_folder(token), ignore_errors=True)


def _unmount(places: Sequence[str]) -> None:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    libc = ctypes.CDLL(None)
    for point in sorted(points, reverse=True):  # innermost first
        if any(point.startswith(f"{place}/") for place in places):
            libc.umount2(point.encode(), _LAZY)


def _guard(token: str, pids: Sequence[int], folders: Sequence[str]) -> None:
    """Waits for one of the pids to end; the first of them is the run's."""
    poller = select.poll()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            poller.register(os.pidfd_open(pid), select.POLLIN)
            continue
        break  # it has ended already
    else:
        poller.poll()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pids[0], signal.SIGKILL)
    _clean_up(token, [*folders, str(_short_folder(token))])


if __name__ == "__main__":
    _guard(sys.argv[1], [int(pid) for pid in sys.argv[2].split(",")], sys.argv[3:])
