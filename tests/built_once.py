# SPDX-License-Identifier: MPL-2.0
"""What tests build, built once for all workers and runs of a checkout, until its sources change."""

import fcntl
import hashlib
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

_PLACE = Path(__file__).resolve().parents[1] / "build/tests"
_KEPT_S = 86400.0


def built_once(
    name: str, sources: Iterable[Path], make: Callable[[Path], object], *settings: str
) -> Path:
    """The folder that `make` has filled from these files, or folders of them, and settings.

    What `make` raises is raised, and the next one tries again. What nobody has asked for in a day is
    removed.
    """
    digest = hashlib.sha256(repr(settings).encode())
    for file in sorted(file for source in sources for file in _files(source)):
        digest.update(str(file).encode() + b"\0" + file.read_bytes())
    place = _PLACE / name
    place.mkdir(parents=True, exist_ok=True)
    done = place / digest.hexdigest()[:16]
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            fresh = place / "unfinished"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            make(fresh)
            fresh.rename(done)
        done.touch()
        for other in place.iterdir():
            if other.is_dir() and time.time() - other.stat().st_mtime > _KEPT_S:
                shutil.rmtree(other)
    return done


def _files(source: Path) -> Iterable[Path]:
    if source.is_file():
        return [source]
    return [f for f in source.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
