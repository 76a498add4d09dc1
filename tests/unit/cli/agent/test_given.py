# SPDX-License-Identifier: MPL-2.0
"""Options as they are given, put together and checked."""

from __future__ import annotations

import pytest

from nomad_nvidia_vgpu.cli.agent.given import checked_config, with_any_size
from nomad_nvidia_vgpu.errors import ConfigError


def test_a_command_that_needs_no_size_gets_any() -> None:
    """A config is complete for `gpus` whatever it says of sizes."""
    assert with_any_size({}) == {"vgpus": 1}
    assert with_any_size({"vgpu_memory": "10GiB"}) == {"vgpu_memory": "10GiB"}
    assert with_any_size({"vgpus": 4}) == {"vgpus": 4}


def test_a_wrong_config_is_refused_with_every_problem() -> None:
    """Options that do not exist and options that are wrong are told together."""
    with pytest.raises(ConfigError) as refused:
        checked_config({"vgpu": 4, "vgpus": 4, "vendor": "a b"})
    assert [problem.split(" ")[0] for problem in refused.value.problems] == ["vgpu", "vendor"]


def test_an_unknown_option_alone_is_refused() -> None:
    """A config that is right, except for an option that does not exist is refused."""
    with pytest.raises(ConfigError, match=r"^vgpu is not an option"):
        checked_config({"vgpu": 4, "vgpus": 4})
