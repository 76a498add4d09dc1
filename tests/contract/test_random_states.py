# SPDX-License-Identifier: MPL-2.0
"""Random states of eight GPUs, told as they are. `make soak` judges hundreds."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_states import run_apart


@pytest.mark.parametrize("seed", [1, 2])
def test_no_gpu_is_charged_with_the_fault_of_another(
    library: Path, tmp_path: Path, seed: int
) -> None:
    """Whatever is removed, lost, fails, hangs or moves: settled, exactly the sick ones are sick."""
    assert "none wrong" in run_apart(library, tmp_path, 8, seed)
