# SPDX-License-Identifier: MPL-2.0
"""Variables by which frameworks keep to a task's share of the memory. One line per framework.

They are hints: code of the task can override them, and what a framework does not allocate itself
(the CUDA context, NCCL's buffers) does not count. A job's `env` block cannot change what a plugin
sets, so no task is given them unless the operator asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

_DIGITS = 4
"""Of a fraction, after the point: the smallest share that there may be is 1/256."""


class Part(NamedTuple):
    """What a task may use of the memory of one GPU."""

    share_mib: int | None
    """None: not known."""
    total_mib: int | None
    """What the task sees as the memory of the GPU; None: not known."""


def _jax(fraction: str | None) -> dict[str, str]:
    # Not XLA_CLIENT_MEM_FRACTION, which older versions do not know. JAX refuses to start with both.
    return {"XLA_PYTHON_CLIENT_MEM_FRACTION": fraction} if fraction else {}


def _pytorch(fraction: str | None) -> dict[str, str]:
    # Not PYTORCH_CUDA_ALLOC_CONF, where versions before 2.10 refuse this key.
    return {"PYTORCH_ALLOC_CONF": f"per_process_memory_fraction:{fraction}"} if fraction else {}


def _tensorflow(_fraction: str | None) -> dict[str, str]:
    # It has no variable for a limit; by this one it takes no more than it needs.
    return {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}


FRAMEWORKS: Mapping[str, Callable[[str | None], dict[str, str]]] = {
    "jax": _jax,
    "pytorch": _pytorch,
    "tensorflow": _tensorflow,
}
"""By the word of the option: the variables that hold it to a fraction; None: not known which."""


def hints(frameworks: Iterable[str], parts: Sequence[Part], headroom_mib: int) -> dict[str, str]:
    """The variables for a task that has `parts` of its GPUs, one or more.

    The smallest part counts for all of them, since no framework takes one fraction for each. The
    headroom is taken off the share, but never more than half of it.
    """
    fraction = _fraction(parts, headroom_mib)
    return {n: v for framework in frameworks for n, v in FRAMEWORKS[framework](fraction).items()}


def _fraction(parts: Sequence[Part], headroom_mib: int) -> str | None:
    scale: int = 10**_DIGITS
    smallest = scale
    for share_mib, total_mib in parts:
        if not share_mib or not total_mib:
            return None
        left_mib = max(share_mib - headroom_mib, share_mib // 2)
        smallest = min(smallest, left_mib * scale // total_mib)
    return f"{smallest / scale:.{_DIGITS}f}"
