# SPDX-License-Identifier: MPL-2.0
"""Random states of eight GPUs with real tasks, told as they are. `make soak` judges hundreds."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_states import run_apart

from .task_cgroups import NoCgroupsError, any_task


@pytest.mark.parametrize("seed", [1, 2])
def test_no_gpu_is_charged_with_the_fault_of_another(
    library: Path, tmp_path: Path, seed: int
) -> None:
    """Whatever is removed, lost, fails, hangs or moves: settled, exactly the sick ones are sick.

    With `end_tasks` and the guard at "kill", exactly the tasks of grave GPUs and the greedy end.
    """
    try:
        with any_task():
            pass
    except NoCgroupsError as error:
        pytest.skip(str(error))
    assert "none wrong" in run_apart(library, tmp_path, 8, seed)
