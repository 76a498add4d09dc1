# SPDX-License-Identifier: MPL-2.0
"""The words that ask for simulated GPUs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.gpu.profiles import (
    MAX_SIMULATED,
    PROFILES,
    SimulatedGpus,
    gpu_instance_profile,
    gpu_instances,
    parse_simulated,
)

A100 = "a100-sxm4-40gb"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("l4", SimulatedGpus("l4", 1)),
        ("L4", SimulatedGpus("l4", 1)),
        ("l4:1", SimulatedGpus("l4", 1)),
        ("l4:64", SimulatedGpus("l4", MAX_SIMULATED)),
        ("l4:08", SimulatedGpus("l4", 8)),
        (f"{A100}:1:7g.40gb", SimulatedGpus(A100, 1, ("7g.40gb",))),
        (f"{A100}:2:3g.20gb,3g.20gb", SimulatedGpus(A100, 2, ("3g.20gb", "3g.20gb"))),
        (f"{A100}:1:3g.20gb, 4g.20gb", SimulatedGpus(A100, 1, ("3g.20gb", "4g.20gb"))),
        (f"{A100}:1:1c.3g.20gb", SimulatedGpus(A100, 1, ("1c.3g.20gb",))),
    ],
)
def test_every_spelling_is_understood(text: str, found: SimulatedGpus) -> None:
    """A profile, a count and a MIG layout are read; the last two may be left out."""
    assert parse_simulated(text) == found


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_can_be_asked_for(name: str) -> None:
    """Each profile is found under its own name."""
    assert parse_simulated(f"{name}:3") == SimulatedGpus(name, 3)


@pytest.mark.parametrize(
    "value",
    [
        "",
        ":",
        ":1",
        "l4:",
        "l4::",
        "l4:x",
        "l4:-1",
        "l4:1:",
        "l4:1.0",
        "l4:٣",
        "l4:1:1g.5gb:1",
        None,
        5,
        1.0,
        True,
        b"l4",
        ["l4"],
    ],
    ids=repr,
)
def test_what_is_no_entry_is_refused(value: object) -> None:
    """Anything of another form is refused with the form and an example."""
    with pytest.raises(ValueError, match=r'^must be "<profile>.*such as "l4:2"'):
        parse_simulated(value)


@pytest.mark.parametrize("text", ["l5", "L5", " l4", "l4 ", "nvidia-l4:2", "NVIDIA L4"])
def test_an_unknown_profile_is_refused_with_the_known_ones(text: str) -> None:
    """A profile that does not exist is refused with the list of those that do."""
    with pytest.raises(ValueError, match=f"^must name one of the profiles {', '.join(PROFILES)}"):
        parse_simulated(text)


@pytest.mark.parametrize("text", ["l4:0", "l4:65", "l4:9999", "l4:99999"])
def test_a_count_out_of_range_is_refused(text: str) -> None:
    """No GPU, and more than a node can have, are refused with the range."""
    with pytest.raises(ValueError, match=r"^must ask for 1 to 64 GPUs"):
        parse_simulated(text)


@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if not profile.mig])
def test_a_gpu_without_mig_takes_no_layout(name: str) -> None:
    """A MIG layout for a GPU that has no MIG is refused."""
    with pytest.raises(ValueError, match=f"^must not give MIG profiles for {name}$"):
        parse_simulated(f"{name}:1:1g.5gb")


@pytest.mark.parametrize(
    "device",
    [
        "1g.6gb",
        "5g.20gb",
        "3g.20GB",
        "MIG 3g.20gb",
        "c.3g.20gb",
        "0c.3g.20gb",
        "3c.3g.20gb",
        "xc.3g.20gb",
        "1c.1g.5gb",
        "1c.9g.20gb",
        ",",
        "3g.20gb,,3g.20gb",
        "1c.1c.3g.20gb",
        "\u00b2c.3g.20gb",
        "\u0661c.3g.20gb",
    ],
)
def test_a_device_that_is_no_mig_profile_is_refused(device: str) -> None:
    """A MIG profile that the GPU does not have is refused with those that it has."""
    with pytest.raises(ValueError, match=r"^must give MIG profiles of a100.*1g\.5gb, .*"):
        parse_simulated(f"{A100}:1:{device}")


@pytest.mark.parametrize(
    "layout",
    [
        "7g.40gb,1g.5gb",
        "4g.20gb,4g.20gb",
        "3g.20gb,3g.20gb,1g.5gb",  # seven compute slices, but nine of memory
        ",".join(["1g.5gb"] * 8),
        ",".join(["1g.10gb"] * 5),
        "1c.4g.20gb,3c.4g.20gb,2c.4g.20gb",
    ],
)
def test_a_layout_that_does_not_fit_is_refused(layout: str) -> None:
    """MIG devices that no GPU of the model could hold together are refused."""
    with pytest.raises(ValueError, match=f"^must fit on one {A100} .7 compute and 8 memory"):
        parse_simulated(f"{A100}:1:{layout}")


@pytest.mark.parametrize(
    "layout",
    [
        ",".join(["1g.5gb"] * 7),
        ",".join(["1g.10gb"] * 4),
        "4g.20gb,3g.20gb",
        "2g.10gb,2g.10gb,2g.10gb,1g.5gb",
        "1c.3g.20gb,1c.3g.20gb,1c.3g.20gb,4g.20gb",
    ],
)
def test_a_full_gpu_is_a_layout(layout: str) -> None:
    """A layout may take a GPU to its last slice."""
    assert parse_simulated(f"{A100}:1:{layout}").mig == tuple(layout.split(","))


@given(st.text(st.sampled_from("l4a100-sxm:,.gcb 123²")) | st.text())
def test_any_text_is_an_entry_or_refused(text: str) -> None:
    """Whatever is written, the answer is an entry that can be had, or a refusal."""
    try:
        found = parse_simulated(text)
    except ValueError:
        return
    assert found.profile in PROFILES
    assert 1 <= found.number <= MAX_SIMULATED


@pytest.mark.parametrize(
    ("device", "instance"),
    [("3g.20gb", "3g.20gb"), ("1c.3g.20gb", "3g.20gb"), ("4c.7g.80gb", "7g.80gb")],
)
def test_a_compute_instance_is_part_of_a_gpu_instance(device: str, instance: str) -> None:
    """The GPU instance of a MIG device is known from its profile."""
    assert gpu_instance_profile(device) == instance


@pytest.mark.parametrize(
    ("layout", "instances"),
    [
        ("3g.20gb,3g.20gb", [["3g.20gb"], ["3g.20gb"]]),
        ("1c.3g.20gb,2c.3g.20gb", [["1c.3g.20gb", "2c.3g.20gb"]]),
        ("2c.3g.20gb,2c.3g.20gb", [["2c.3g.20gb"], ["2c.3g.20gb"]]),
        ("1c.3g.20gb,3g.20gb", [["1c.3g.20gb"], ["3g.20gb"]]),
        ("1c.2g.10gb,1c.3g.20gb", [["1c.2g.10gb"], ["1c.3g.20gb"]]),
    ],
)
def test_compute_instances_share_while_there_is_room(
    layout: str, instances: list[list[str]]
) -> None:
    """Parts of one GPU instance share it until its compute slices are used up."""
    assert gpu_instances(tuple(layout.split(","))) == instances
