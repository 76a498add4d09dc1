# SPDX-License-Identifier: MPL-2.0
"""A stand-in for NVIDIA's driver library that real `pynvml` runs against.

`build` compiles it, `FakeDriver` describes the machine it pretends to be and switches faults while
programs run. It knows nothing about this project's own code.
"""

from .driver import PROFILES, BuildError, Call, FakeDriver, build

__all__ = ["PROFILES", "BuildError", "Call", "FakeDriver", "build"]
