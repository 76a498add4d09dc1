# SPDX-License-Identifier: MPL-2.0
"""The node's CDI specifications: whether they can be read, and are of the driver that runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from nomad_nvidia_vgpu.cdi.delivery import CdiNodes, generate
from nomad_nvidia_vgpu.cdi.spec import FoundSpecs, Spec, SpecFiles
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Verdict, error, error_of, ok, warning
from nomad_nvidia_vgpu.errors import RequestError

_LIBRARY = re.compile(r"/lib(?:cuda|nvidia-ml)\.so\.(\d+\.\d+(?:\.\d+)*)$")


def specification(facts: Facts) -> Iterator[Verdict]:
    """Whether the CDI specifications can be read, and name the files of the driver that runs."""
    specs, problems = found(facts)
    needed = facts.config.device_nodes == "cdi"
    for problem in problems:
        said = error if needed else warning
        yield said(problem, "remove the file, or make it again by nvidia-ctk cdi generate")
    for spec in specs:
        versions, running = _versions(spec), facts.driver.version
        if running and versions - {running}:
            said = error if needed else warning
            yield said(
                f"{spec.path} names the files of driver {', '.join(sorted(versions))}, and"
                f" {running} runs",
                f"make it again: {generate(spec.path, by_uuid=any(map(_is_uuid, spec.devices)))}",
            )
        else:
            yield ok(f"{spec.path} describes the GPUs")
    if not specs and not problems and not needed:
        yield ok("there is no CDI specification of NVIDIA's GPUs, and none is needed")
    elif needed:
        yield from _deliveries(facts)


def _deliveries(facts: Facts) -> Iterator[Verdict]:
    """Whether a task would be given each GPU, and what of the specifications none is given."""
    nodes = CdiNodes(_directories(facts), driver=facts.node.proc / "driver")
    refusals: list[Verdict] = []
    for shared in facts.plan.by_uuid().values():
        try:
            nodes.deliver([shared.gpu])
        except RequestError as refusal:
            refusals.append(error_of(refusal.problem))
    yield from refusals
    if lost := nodes.without_equivalent():
        yield ok(
            f"Nomad has no form for these words of CDI, so no task gets them: {', '.join(lost)}"
        )
    elif not refusals:
        yield ok("a task is given all that the CDI specifications name for its GPUs")


def found(facts: Facts) -> FoundSpecs:
    """The specifications of this node, and what cannot be read as one."""
    return SpecFiles(_directories(facts)).read()


def _directories(facts: Facts) -> list[str]:
    node = facts.node
    places = (("/etc/", node.etc), ("/var/run/", node.run), ("/run/", node.run))
    return [
        next((str(place / path[len(top) :]) for top, place in places if path.startswith(top)), path)
        for path in facts.config.cdi_spec_dirs
    ]


def _is_uuid(name: str) -> bool:
    return name.startswith(("GPU-", "MIG-"))


def _versions(spec: Spec) -> set[str]:
    """Of the driver whose libraries it names."""
    edits = (spec.edits, *spec.devices.values())
    paths = {Path(mount.host_path) for edit in edits for mount in edit.mounts}
    return {match[1] for path in paths if (match := _LIBRARY.search(str(path)))}
