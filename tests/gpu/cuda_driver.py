# SPDX-License-Identifier: MPL-2.0
"""CUDA's driver library through ctypes, and two kernels in PTX: no compiler, no package.

Function names carry the versions that the library exports (`_v2`). The PTX is for Volta, which
the driver translates for every GPU since. Every kernel ends by itself.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
import uuid
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from typing import Any

LIBRARY = "libcuda.so.1"
OUT_OF_MEMORY = 2

MIB = 2**20
THREADS = 256
"""Per block; eight such blocks fill an SM of any GPU from Volta on (of Turing, four)."""
FMA_PER_ROUND = 32
"""Multiply-adds of one thread in one round of the kernel."""

WORDS = 65536
SUM = 16.0
LEAST_ROUNDS, MOST_ROUNDS = 64, 2**32 - 1
"""Of the kernel: so many that its result has settled; as many as its counter holds."""

_ATTRIBUTES = {"sms": 16, "compute_mode": 20, "capability_major": 75, "capability_minor": 76}

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetUuid_v2": (POINTER(c_ubyte * 16), c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuCtxSynchronize": (),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemcpyDtoH_v2": (c_void_p, c_uint64, c_size_t),
    "cuModuleLoadDataEx": (POINTER(c_void_p), c_char_p, c_uint, POINTER(c_int), POINTER(c_void_p)),
    "cuModuleGetFunction": (POINTER(c_void_p), c_void_p, c_char_p),
    "cuLaunchKernel": (c_void_p, *[c_uint] * 7, c_void_p, POINTER(c_void_p), POINTER(c_void_p)),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
}
_JIT_ERROR_LOG, _JIT_ERROR_LOG_BYTES = 5, 6
_LOG_BYTES = 4096

_CHAINS = 8
_FMAS = "\n".join(
    f"    fma.rn.f32 %x{chain}, %x{chain}, 0f3F000000, 0f3F800000;" for chain in range(_CHAINS)
)
_STARTS = "\n".join(
    f"    add.rn.f32 %x{chain}, %start, 0f{0x3F800000 + chain * 0x00200000:08X};"
    for chain in range(_CHAINS)
)
_SUMS = "\n".join(f"    add.rn.f32 %x0, %x0, %x{chain};" for chain in range(1, _CHAINS))

PTX = f"""\
.version 6.0
.target sm_70
.address_size 64

// Eight independent chains of x = x/2 + 1, which settle at 2: each thread writes their sum, 16.
.visible .entry saturate(.param .u64 out, .param .u32 rounds)
{{
    .reg .pred %again;
    .reg .f32 %start, %x<{_CHAINS}>;
    .reg .b32 %left, %block, %width, %thread, %id, %slot;
    .reg .b64 %to, %offset;
    ld.param.u64 %to, [out];
    ld.param.u32 %left, [rounds];
    cvta.to.global.u64 %to, %to;
    mov.u32 %block, %ctaid.x;
    mov.u32 %width, %ntid.x;
    mov.u32 %thread, %tid.x;
    mad.lo.u32 %id, %block, %width, %thread;
    cvt.rn.f32.u32 %start, %thread;
{_STARTS}
round:
{_FMAS}
{_FMAS}
{_FMAS}
{_FMAS}
    sub.u32 %left, %left, 1;
    setp.ne.u32 %again, %left, 0;
    @%again bra round;
{_SUMS}
    and.b32 %slot, %id, {WORDS - 1};
    mul.wide.u32 %offset, %slot, 4;
    add.u64 %to, %to, %offset;
    st.global.f32 [%to], %x0;
    ret;
}}

// Writes where nothing is: a fault of the program, as tasks have them.
.visible .entry trespass(.param .u64 out, .param .u32 rounds)
{{
    .reg .b32 %one;
    .reg .b64 %to;
    ld.param.u64 %to, [out];
    mov.u32 %one, 1;
    st.global.u32 [%to], %one;
    ret;
}}
"""

NOWHERE = 64
"""An address that no allocation has."""


class CudaError(Exception):
    """The driver refused a call."""

    def __init__(self, call: str, error: int | None, name: str) -> None:
        """`error` is the driver's number, None where its library is not there."""
        super().__init__(f"{call}: {error} {name}")
        self.facts = {"call": call, "error": error, "name": name}


def say(event: str, **facts: object) -> None:
    """Prints one event; `at_s` is the machine's monotonic clock, the same for all processes."""
    line = json.dumps({"event": event, "at_s": round(time.monotonic(), 4), **facts})
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Cuda:
    """The driver's library; CudaError where it is missing or too old."""

    def __init__(self) -> None:
        """Loads it and declares what it is called with."""
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise CudaError("dlopen", None, str(error)) from error
        for name, arguments in _SIGNATURES.items():
            try:
                function = getattr(self._library, name)
            except AttributeError:
                raise CudaError("dlsym", None, f"{LIBRARY} has no {name}") from None
            function.argtypes, function.restype = arguments, c_int

    def call(self, name: str, *arguments: Any) -> None:
        """One call; CudaError."""
        error = getattr(self._library, name)(*arguments)
        if error != 0:
            raise CudaError(name, error, self._name(error))

    def number(self, name: str, *arguments: Any) -> int:
        """What a call writes into the int that is its first argument; CudaError."""
        found = c_int()
        self.call(name, ctypes.byref(found), *arguments)
        return found.value

    def handle(self, name: str, *arguments: Any) -> c_void_p:
        """What a call writes into the handle that is its first argument; CudaError."""
        found = c_void_p()
        self.call(name, ctypes.byref(found), *arguments)
        return found

    def _name(self, error: int) -> str:
        found = c_char_p()
        if self._library.cuGetErrorName(error, ctypes.byref(found)) == 0 and found.value:
            return found.value.decode()
        return "unknown"


class Gpu:
    """The first GPU that this process sees, with a context on it."""

    def __init__(self) -> None:
        """Opens it as CUDA's runtime does, and says `ready` with what it is; CudaError."""
        began = time.monotonic()
        self.cuda = Cuda()
        self.cuda.call("cuInit", 0)
        initialised = time.monotonic()
        self._device = self.cuda.number("cuDeviceGet", 0)
        self._context = self.cuda.handle("cuDevicePrimaryCtxRetain", self._device)
        self.cuda.call("cuCtxSetCurrent", self._context)
        ended = time.monotonic()
        self._kernels: dict[str, c_void_p] = {}
        facts = {
            name: self.cuda.number("cuDeviceGetAttribute", number, self._device)
            for name, number in _ATTRIBUTES.items()
        }
        self.sms = facts["sms"]
        free_mib, total_mib = self.memory_mib()
        say(
            "ready",
            pid=os.getpid(),
            uid=os.getuid(),
            gpu=self._text(),
            uuid=self._uuid(),
            gpus=self.cuda.number("cuDeviceGetCount"),
            cuda=self.cuda.number("cuDriverGetVersion"),
            **facts,
            free_mib=free_mib,
            total_mib=total_mib,
            init_s=round(initialised - began, 4),
            context_s=round(ended - initialised, 4),
        )

    def memory_mib(self) -> tuple[int, int]:
        """Free and total memory, as the driver tells this process."""
        free, total = c_size_t(), c_size_t()
        self.cuda.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value // MIB, total.value // MIB

    def allocate(self, size: int) -> int:
        """Takes `size` bytes for as long as this process lives; the address; CudaError."""
        address = c_uint64()
        self.cuda.call("cuMemAlloc_v2", ctypes.byref(address), size)
        return address.value

    def close(self) -> None:
        """Gives the context back."""
        self.cuda.call("cuDevicePrimaryCtxRelease_v2", self._device)

    def launch(self, kernel: str, address: int, blocks: int, rounds: int) -> None:
        """Starts a kernel and does not wait for it; CudaError."""
        if not self._kernels:
            self._load()
        out, count = c_uint64(address), c_uint(rounds)
        parameters = (c_void_p * 2)(ctypes.addressof(out), ctypes.addressof(count))
        shape = (blocks, 1, 1, THREADS, 1, 1)
        self.cuda.call("cuLaunchKernel", self._kernels[kernel], *shape, 0, None, parameters, None)

    def wait(self) -> None:
        """Waits until all that was launched has ended; CudaError."""
        self.cuda.call("cuCtxSynchronize")

    def _load(self) -> None:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        options = (c_int * 2)(_JIT_ERROR_LOG, _JIT_ERROR_LOG_BYTES)
        values = (c_void_p * 2)(ctypes.addressof(log), _LOG_BYTES)
        try:
            module = self.cuda.handle("cuModuleLoadDataEx", PTX.encode(), 2, options, values)
        except CudaError as error:
            error.facts["name"] = f"{error.facts['name']}: {log.value.decode(errors='replace')}"
            raise
        for name in ("saturate", "trespass"):
            self._kernels[name] = self.cuda.handle("cuModuleGetFunction", module, name.encode())

    def _text(self) -> str:
        name = ctypes.create_string_buffer(256)
        self.cuda.call("cuDeviceGetName", name, len(name), self._device)
        return name.value.decode(errors="replace")

    def _uuid(self) -> str:
        """Without `GPU-` or `MIG-` before it: CUDA does not say which it is."""
        found = (c_ubyte * 16)()
        self.cuda.call("cuDeviceGetUuid_v2", ctypes.byref(found), self._device)
        return str(uuid.UUID(bytes=bytes(found)))
