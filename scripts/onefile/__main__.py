# SPDX-License-Identifier: MPL-2.0
"""The single file's first Python: finds its unpacked contents, or unpacks them, and goes on there.

It runs at each of the three starts per agent start, so it imports next to nothing, and it must
compile on any Python 3, to say one sentence on one whose compiled modules are not in the file.
"""

import _imp
import fcntl
import os
import stat
import sys

TYPE_CHECKING = False  # importing typing costs milliseconds
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

# Written by `scripts.onefile.build`: the name of the contents; the kinds of Python whose compiled
# modules are in the file; the names that those go by, newest first; the same for people.
BUILD = "unbuilt"
TAGS = ()  # type: tuple[str, ...]
PYTHONS = ()  # type: tuple[str, ...]
NEEDED = "unbuilt"

TRIED = "nvidia_vgpu_tried"
"""Of -X: this Python was found by another that would not do."""

CHOSEN = "NVIDIA_VGPU_UNPACK_DIR"
"""Names the place to unpack to before all others."""

ROOTS = ("/var/cache/nvidia-vgpu", "/run/nvidia-vgpu/unpacked")
TEMPORARY = ("/tmp", "/dev/shm")


def main() -> None:
    """Runs the program in the file; exits with 1 and one sentence if it cannot be run here."""
    tag = soabi()
    if tag not in TAGS:
        machines = sorted({machine_of(known) for known in TAGS})
        if machine_of(tag) not in machines:
            fail(
                "this file is for {}, and this machine is {}: copy the one that is for it".format(
                    " and ".join(machines), machine_of(tag)
                )
            )
        try_another()
        fail(
            "nvidia-vgpu needs {}, but {} is Python {}.{} ({}): install one beside it".format(
                NEEDED, sys.executable, sys.version_info[0], sys.version_info[1], tag
            )
        )
    name = "{}-{}".format(BUILD, tag)
    candidates = places(os.environ, os.geteuid())
    for place in candidates:
        contents = enter("{}/{}".format(place, name))
        if contents is not None:
            break
    else:
        contents = unpacked(sys.path[0], candidates, name, tag)
    sys.path[0] = contents
    sys.dont_write_bytecode = True  # all that is worth it has been compiled
    from nomad_nvidia_vgpu.__main__ import main as program

    program()


def soabi() -> str:
    """What this Python calls its compiled modules, such as cpython-311-x86_64-linux-gnu."""
    return _imp.extension_suffixes()[0].split(".")[1]


def machine_of(tag: str) -> str:
    """The processor and the C library in the name of compiled modules, such as x86_64-linux-gnu."""
    return tag.split("-", 2)[-1]


def starts(path: str) -> bool:
    """Whether a Python starts: a shim of pyenv may stand for a version that is not there any more."""
    return "/shims/" not in path or os.spawnv(os.P_WAIT, path, [path, "-I", "-S", "-c", ""]) == 0


def try_another() -> None:
    """Goes on under another Python in PATH, if there is one: distributions have newer ones beside.

    Returns if there is none, and if this one was come to in this way.
    """
    if TRIED in sys._xoptions:  # noqa: SLF001  documented, in spite of its name
        return
    for name in PYTHONS:
        for directory in os.get_exec_path():
            path = "{}/{}".format(directory, name)
            if os.access(path, os.X_OK) and starts(path):
                os.execv(path, [path, "-I", "-S", "-X", TRIED, sys.path[0], *sys.argv[1:]])


def places(environment: "Mapping[str, str]", uid: int) -> "list[str]":
    """Directories that may hold the unpacked contents, best first.

    Root's do not depend on HOME, which is not the same for the agent and in a shell.
    """
    found = [environment.get(CHOSEN, ""), *ROOTS]
    home = environment.get("HOME", "")
    cache = environment.get("XDG_CACHE_HOME") or (home and home + "/.cache")
    if uid != 0 and cache:
        found.append(cache + "/nvidia-vgpu")
    parents = (environment.get("TMPDIR"), *TEMPORARY)
    found += ["{}/nvidia-vgpu-{}".format(parent, uid) for parent in parents if parent]
    return [place for place in found if place.startswith("/")]


def objection(path: str) -> "str | None":
    """Why nothing in this directory, a real path, may be executed; None if it may.

    Nobody but root and ourselves may be able to write to it, or to take it away and put another
    in its place. OSError if it cannot be looked at.
    """
    trusted = (0, os.geteuid())
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        return "it is mounted noexec"
    place = path
    while True:
        status = os.lstat(place)
        if status.st_uid not in trusted:
            return "{} belongs to uid {}".format(place, status.st_uid)
        others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        # In a sticky directory above it others can add names, but not take ours away.
        if others and (place == path or not status.st_mode & stat.S_ISVTX):
            return "{} can be written to by others".format(place)
        if place == "/":
            return None
        place = os.path.dirname(place)


def enter(path: str) -> "str | None":
    """The real path of unpacked contents, which nobody removes while this process lives.

    None if there are none, if they are about to be removed, or if they are not to be trusted.
    """
    real = os.path.realpath(path)
    try:
        # Never closed: the lock on it keeps `unpack.clean` of other versions away.
        lock = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # It may have been moved away between the two calls.
        if os.path.samestat(os.fstat(lock), os.stat(real)) and objection(real) is None:
            mark_used(lock)
            return real
    except OSError:
        pass
    os.close(lock)
    return None


def mark_used(contents: int) -> None:
    """Tells `unpack.clean` of other versions when these contents were last wanted."""
    try:
        os.utime(contents)
    except OSError:  # another user's, or on a read-only file system
        pass


def unpacked(archive: str, candidates: "list[str]", name: str, tag: str) -> str:
    """The real path of the contents, unpacked into the first place where that is possible."""
    try:
        from scripts.onefile import unpack
    except ImportError as error:
        fail("{} is incomplete ({}): install all of Python".format(sys.executable, error))
    reasons = []
    for place in candidates:
        try:
            real = unpack.prepare(place)
            reason = objection(real)
            if reason is None:
                announce(real)
                unpack.unpack(archive, real, name, tag)
                contents = enter("{}/{}".format(real, name))
                if contents is not None:
                    return contents
                reason = "what was unpacked is not there"
        except unpack.DamagedError as error:
            fail("{} is damaged ({}): copy it again".format(archive, error))
        except OSError as error:
            reason = error.strerror or str(error)
        reasons.append("{}: {}".format(place, reason))
    return fail(
        "nvidia-vgpu finds no directory to unpack itself into ({}): make one of them writable, "
        "or set {} to one that is".format("; ".join(reasons), CHOSEN)
    )


def announce(place: str) -> None:
    """Tells a person at a terminal why the first start takes seconds; Nomad's log is not told."""
    if "NOMAD_PLUGIN_MAGIC_COOKIE" not in os.environ and sys.stderr.isatty():
        sys.stderr.write("nvidia-vgpu: first start, unpacking into {}\n".format(place))
        sys.stderr.flush()


def fail(sentence: str) -> "NoReturn":
    """Ends with a sentence that Nomad logs as an error."""
    level = "[ERROR] " if "NOMAD_PLUGIN_MAGIC_COOKIE" in os.environ else ""
    sys.stderr.write("{}{}\n".format(level, sentence))
    sys.exit(1)


if __name__ == "__main__":
    main()
