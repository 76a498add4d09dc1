# SPDX-License-Identifier: MPL-2.0
"""Every exception of this program, by whose fault it is.

    VgpuError
    ├── ConfigError          the operator wrote something that cannot be
    ├── HardwareError        a GPU or its driver does not do what it should
    │   ├── DriverError          the driver as a whole: not installed, not loaded, mismatched
    │   │   └── StaleLibraryError    it was replaced under this process
    │   ├── NoSuchGpuError       the GPUs have been renumbered
    │   ├── GpuError             one GPU: lost, in need of a reset, not answering
    │   └── MpsError             the MPS tools or daemon of one GPU
    ├── RequestError         Nomad asked for vGPUs that cannot be given
    └── NotBegunError        the program could not begin its work

A text says what failed, on which GPU or option, the value seen, and what to do. (go-plugin has
its own `HandshakeError` in `goplugin.handshake`, because that package stands alone.)
"""

from __future__ import annotations

from collections.abc import Sequence


class VgpuError(Exception):
    """Base of all."""


class ConfigError(VgpuError):
    """The config block, or a file that holds one, has problems: all of them, one sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        """`problems`: one sentence each, without a final stop; at least one."""
        self.problems = tuple(problems)
        numbered = (f"({number}) {p}" for number, p in enumerate(self.problems, 1))
        super().__init__("; ".join(numbered if len(self.problems) > 1 else self.problems))


class HardwareError(VgpuError):
    """A GPU or its driver fails."""


class DriverError(HardwareError):
    """The driver as a whole cannot be used now; it may be later."""


class StaleLibraryError(DriverError):
    """The driver was replaced while this process had its library: only a new process can use it."""


class NoSuchGpuError(HardwareError):
    """The driver has fewer GPUs than a moment ago; those left may have other indexes now."""


class GpuError(HardwareError):
    """One GPU cannot be used now; the others may be fine."""

    def __init__(self, text: str, *, grave: bool = False) -> None:
        """`grave`: nothing on it will work again before a reset or a reboot."""
        super().__init__(text)
        self.grave = grave


class MpsError(HardwareError):
    """The MPS tools of this node, or the MPS daemon of one GPU, cannot be used now."""


class RequestError(VgpuError):
    """A reservation names vGPUs that are unknown or must not be used."""


class NotBegunError(VgpuError):
    """What runs behind Nomad's calls could not be started; it may be at the next call."""
