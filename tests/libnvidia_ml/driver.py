# SPDX-License-Identifier: MPL-2.0
r"""Building the fake NVIDIA library and steering the machine that it pretends to be.

A machine is described by a profile, a small text file with the sections `[driver]`, `[gpu N]` and
`[mig N.SLOT]`. Programs under test reread it whenever it is replaced. A key that is left out makes
the NVML function behind it answer "not supported"; the value `\xNN` stands for one byte.
"""

import contextlib
import os
import re
import shlex
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from built_once import built_once

_HERE = Path(__file__).resolve().parent
_LIBRARY = "libnvidia-ml.so.1"
_SECTION = re.compile(r"driver|gpu \d+|mig \d+\.\d+")
_SWITCHES = ("fault", "hang", "slow", "once")

PROFILES = tuple(sorted(path.stem for path in (_HERE / "profiles").glob("*.ini")))
"""The machines that `FakeDriver.load` knows by name."""

DRIVER_KEYS = frozenset(
    (
        "driver_version",
        "cuda_driver_version",
        "nvml_version",
        "init_error",
        "wait_error",
        "count",
        "process_record_bytes",
    )
)
_PROCESS_KEYS = "compute_processes graphics_processes mps_processes"
_MEMORY_KEYS = "memory_total_mib memory_reserved_mib memory_used_mib bar1_total_mib bar1_used_mib"
GPU_KEYS = frozenset(
    f"""
    uuid name minor_number pci pci_device_id pci_subsystem_id {_MEMORY_KEYS} memory_numa_node
    power_limit_mw enforced_power_limit_mw power_usage_mw energy_mj temperature_c
    max_sm_clock_mhz max_memory_clock_mhz sm_clock_mhz memory_clock_mhz
    pcie_gen gpu_pcie_gen pcie_width
    gpu_utilization memory_utilization encoder_utilization decoder_utilization
    ecc_l1 ecc_l2 ecc_memory ecc_sram
    ecc_l1_corrected ecc_l2_corrected ecc_memory_corrected ecc_sram_corrected
    display_mode display_active persistence_mode compute_mode virtualization_mode
    compute_capability architecture mig_mode mig_mode_pending mig_slots
    supported_events events wait_error recovery_action remapped_rows retired_pages_pending
    lost removed position {_PROCESS_KEYS} processes_grow
    """.split()
)
MIG_KEYS = frozenset(
    f"""
    uuid name gi ci {_MEMORY_KEYS} compute_mode ecc_sram multiprocessors
    copy_engines decoders encoders jpegs ofas gi_slices ci_slices {_PROCESS_KEYS}
    """.split()
)


class BuildError(Exception):
    """The C compiler is missing or refused; the text is what it said."""


class Call(NamedTuple):
    """One call into the library; `target` is `N`, `N.SLOT`, or `-` where no device is meant."""

    pid: int
    function: str
    target: str


def build(directory: Path, *, driver_470: bool = False) -> Path:
    """Compile the library into `directory` with $CC or `cc` and return that directory.

    With `driver_470` the functions that NVIDIA's 470 driver lacks are left out. Raises BuildError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    command = [
        *shlex.split(os.environ.get("CC", "") or "cc"),
        *("-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-O1", "-pthread"),
        *(["-DDRIVER_470"] if driver_470 else []),
        f"-Wl,-soname,{_LIBRARY}",
        *("-o", str(directory / _LIBRARY)),
        *(str(source) for source in sorted(_HERE.glob("*.c"))),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise BuildError(done.stderr)
    return directory


def built(*, driver_470: bool = False) -> Path:
    """Give the directory of the library as it is now, compiled once for all who ask."""
    return built_once(
        "libnvidia-ml",
        sorted(_HERE.glob("*.[ch]")),
        lambda directory: build(directory, driver_470=driver_470),
        os.environ.get("CC", ""),
        str(driver_470),
    )


@cache
def functions() -> frozenset[str]:
    """Every NVML function that the library can export, the newer drivers' ones included."""
    exported = re.compile(r"^FAKE_EXPORT [^(]*?(nvml\w+)\(", re.MULTILINE)
    return frozenset(
        name for source in _HERE.glob("*.c") for name in exported.findall(source.read_text())
    )


def _check(section: str, key: str) -> None:
    """Refuse a misspelt key where it is written: it would read as "not supported" later."""
    if not _SECTION.fullmatch(section):
        raise KeyError(f"no such section: [{section}]")
    switch, dot, function = key.partition(".")
    if dot and switch in _SWITCHES:
        known = function in functions()
    else:
        keys = {"driver": DRIVER_KEYS, "gpu": GPU_KEYS, "mig": MIG_KEYS}
        known = key in keys[section.split(maxsplit=1)[0]]
    if not known:
        raise KeyError(f"no such key in [{section}]: {key}")


def _escape(value: str) -> str:
    """Spell bytes that the file cannot carry as themselves, among them blanks at the ends."""
    inner = value.strip(" ")
    if inner != value:
        start = len(value) - len(value.lstrip(" "))
        end = len(value) - start - len(inner)
        return "\\x20" * start + _escape(inner) + "\\x20" * end
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in value.encode()
    )


def _parse(text: str) -> dict[str, dict[str, str]]:
    sections: dict[str, dict[str, str]] = {}
    title = ""
    for line in (raw.strip() for raw in text.splitlines()):
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            title = line[1:-1]
            sections[title] = {}
            continue
        key, _, value = line.partition("=")
        _check(title, key.strip())
        sections[title][key.strip()] = value.strip()
    return sections


def _renamed(profile_uuid: str, machine: uuid.UUID) -> str:
    """A UUID of this machine alone: two of one profile are not the same GPU.

    What the profile says is kept up to its first group, so that the order of GPUs is.
    """
    kind, first, _ = profile_uuid.split("-", 2)
    own = uuid.uuid5(machine, profile_uuid)
    return f"{kind}-{first}-{str(own).partition('-')[2]}"


class FakeDriver:
    """One pretended machine: its library directory, its profile and its log of calls.

    Its GPUs have UUIDs that no other `FakeDriver` has, the same over every `load`.
    Not for use from several threads at once; the programs that read the profile may be many.
    """

    def __init__(self, library: Path, workspace: Path, profile: str = "none") -> None:
        """Write `profile` below `workspace`; `library` is what `build` returned."""
        workspace.mkdir(parents=True, exist_ok=True)
        self.library = library
        self.profile_path = workspace / "nvml-profile.ini"
        self.calls_path = workspace / "nvml-calls.log"
        self.modes_path = workspace / "nvml-profile.ini.modes"
        self._machine = uuid.uuid4()
        self._sections: dict[str, dict[str, str]] = {}
        self._serial = 0
        self._held = False
        self._stamp = 0
        self.load(profile)

    def environment(self) -> dict[str, str]:
        """Return the variables that put a process on this machine; add them to its environment."""
        inherited = os.environ.get("LD_LIBRARY_PATH", "")
        return {
            "LD_LIBRARY_PATH": ":".join(filter(None, [str(self.library), inherited])),
            "FAKE_NVML_PROFILE": str(self.profile_path),
            "FAKE_NVML_CALLS": str(self.calls_path),
        }

    def load(self, profile_name: str) -> None:
        """Become the machine of that name in `PROFILES`, without the changes made so far."""
        path = _HERE / "profiles" / f"{profile_name}.ini"
        self._sections = _parse(path.read_text(encoding="ascii"))
        for keys in self._sections.values():
            if "uuid" in keys:
                keys["uuid"] = _renamed(keys["uuid"], self._machine)
        self.reload_driver()
        self._write()

    def get(self, section: str, key: str) -> str | None:
        """Return the value as the profile spells it, None where the key is left out."""
        return self._sections.get(section, {}).get(key)

    def set(self, section: str, key: str, value: str | int) -> None:
        """Set one key for all programs now running; a new section adds a GPU or an instance.

        Besides its keys each section takes `fault.FUNCTION` (an NVML code), `hang.FUNCTION`
        (1: blocked until cleared) and `slow.FUNCTION` (milliseconds); `fail_once` sets
        `once.FUNCTION`. Raises KeyError for a key that the library does not know.
        """
        _check(section, key)
        self._sections.setdefault(section, {})[key] = _escape(str(value))
        self._write()

    def copy_gpu(self, gpu: int, number: int, **changes: str) -> None:
        """Add a GPU `number` like `gpu`, with its own UUID, minor number and what else is said."""
        own = {"uuid": f"GPU-{uuid.uuid4()}", "minor_number": str(number)}
        copied = {**self._sections[f"gpu {gpu}"], **own, **changes}
        self._sections[f"gpu {number}"] = copied
        self._write()

    def clear(self, section: str, key: str) -> None:
        """Leave the key out from now on; a key that is not there is no error."""
        _check(section, key)
        self._sections.get(section, {}).pop(key, None)
        self._write()

    def remove_section(self, section: str) -> None:
        """Take a GPU or a MIG instance away; raises KeyError when there is none."""
        del self._sections[section]
        self._write()

    def compute_mode(self, section: str) -> int | None:
        """Return the compute mode in force, whoever set it; None where there is none."""
        mode = self.get(section, "compute_mode")
        if mode is None:
            return None
        try:
            lines = self.modes_path.read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            lines = []
        uuid = self.get(section, "uuid")
        set_since = [line.split()[1] for line in lines if line.split()[0] == uuid]
        return int([mode, *set_since][-1])

    def set_compute_mode(self, section: str, mode: int) -> None:
        """Change the compute mode as an administrator would; raises KeyError without a UUID."""
        with self.modes_path.open("a", encoding="ascii") as modes:
            modes.write(f"{self._sections[section]['uuid']} {mode}\n")

    def reload_driver(self) -> None:
        """Forget what programs have set, as a reboot does; compute modes are the profile's."""
        self.modes_path.unlink(missing_ok=True)

    def fail_once(self, section: str, function: str, code: int) -> None:
        """Have the next call of `function` fail in each process, and work again after it."""
        self._serial += 1
        self.set(section, f"once.{function}", f"{self._serial}:{code}")

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Programs see all that is set within it at the same moment."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self._write()

    def push_event(
        self, gpu: int, event_type: int, data: int, gi: int | None = None, ci: int | None = None
    ) -> int:
        """Report an event to every event set that has this GPU registered; returns its serial.

        `gi` and `ci` name the MIG instance at fault; give both or neither.
        """
        self._serial += 1
        event = f"{self._serial}:{event_type:#x}:{data}"
        if gi is not None and ci is not None:
            event += f":{gi}:{ci}"
        section = self._sections[f"gpu {gpu}"]
        section["events"] = f"{section.get('events', '')} {event}".strip()
        self._write()
        return self._serial

    def call_log(self) -> list[Call]:
        """Every call so far in the order of arrival, including those that still hang."""
        try:
            text = self.calls_path.read_text(encoding="ascii")
        except FileNotFoundError:
            return []
        # A reader can meet a line while it is being written.
        lines = text[: text.rfind("\n") + 1].splitlines()
        fields = (line.split() for line in lines)
        return [Call(int(pid), function, target) for pid, function, target in fields]

    def calls(self) -> Counter[str]:
        """How often each NVML function was called, in all processes together."""
        return Counter(call.function for call in self.call_log())

    def listened_to(self) -> frozenset[str]:
        """Return the GPUs, as `target` names them, that the newest event set has registered.

        None before somebody waits for it: an event of that moment may come too early.
        """
        calls = self.call_log()
        made = [i for i, call in enumerate(calls) if call.function == "nvmlEventSetCreate"]
        since = (
            [call for call in calls[made[-1] :] if call.pid == calls[made[-1]].pid] if made else []
        )
        if not any(call.function == "nvmlEventSetWait_v2" for call in since):
            return frozenset()
        registered = (c.target for c in since if c.function == "nvmlDeviceRegisterEvents")
        return frozenset(registered)

    def forget_calls(self) -> None:
        """Count from zero again."""
        self.calls_path.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._held:
            return
        lines = []
        for title, keys in self._sections.items():
            lines += [f"[{title}]", *(f"{key} = {value}" for key, value in keys.items()), ""]
        fresh = self.profile_path.with_name(self.profile_path.name + ".new")
        fresh.write_text("\n".join(lines), encoding="ascii")
        # The file system's clock ticks coarsely: two writes within one tick would look the same
        # to a reader that compares times. Give each version a time of its own.
        self._stamp = max(self._stamp + 1, time.time_ns())
        os.utime(fresh, ns=(self._stamp, self._stamp))
        fresh.replace(self.profile_path)
