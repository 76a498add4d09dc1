# SPDX-License-Identifier: MPL-2.0
"""Reading CDI specifications."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from cdi_node.node import GPUS, NAMES, CdiNode, touch_later
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.cdi import spec
from nomad_nvidia_vgpu.cdi.spec import BoundPath, DeviceFile, FoundSpecs, Spec, SpecFiles

MINIMAL = "kind: nvidia.com/gpu\ndevices:\n- name: '0'\n"


@pytest.fixture
def node(tmp_path: Path) -> CdiNode:
    """A node with a specification."""
    return CdiNode(tmp_path)


def read(node: CdiNode) -> FoundSpecs:
    """Gives what a fresh reader finds."""
    return SpecFiles(node.directories).read()


def only(node: CdiNode) -> Spec:
    """Gives the one specification that is found."""
    found = read(node)
    assert found.problems == ()
    (spec,) = found.specs
    return spec


@pytest.mark.parametrize("name", NAMES)
def test_every_toolkits_specification_is_read(node: CdiNode, name: str) -> None:
    """The forms that NVIDIA's toolkits write, in YAML and JSON, are understood."""
    for path in node.etc.iterdir():
        path.unlink()
    node.load(name)
    spec = only(node)
    assert spec.devices
    assert {edit.path for edit in spec.edits.devices} >= {"/dev/nvidiactl", "/dev/nvidia-uvm"}
    assert any("libcuda.so" in edit.path for edit in spec.edits.mounts)


def test_all_that_a_container_needs_is_read(node: CdiNode) -> None:
    """Variables, device files, mounts and hooks have their parts where they belong."""
    node.load("toolkit-1.18.json")
    (node.etc / "nvidia.yaml").unlink()
    spec = only(node)
    host = str(node.root)
    assert spec.path == node.etc / "nvidia.json"
    assert ("NVIDIA_CTK_LIBCUDA_DIR", "/usr/lib64") in spec.edits.envs
    assert DeviceFile("/dev/nvidiactl", f"{host}/dev/nvidiactl", "rwm") in spec.edits.devices
    assert (
        BoundPath("/tmp/nvidia-mps", f"{host}/tmp/nvidia-mps", read_only=False) in spec.edits.mounts
    )
    assert spec.edits.mounts[0].read_only
    assert ("disable-device-node-modification",) in spec.edits.hooks
    own = spec.devices[GPUS[0]]
    assert own.devices[0] == DeviceFile("/dev/nvidia1", f"{host}/dev/nvidia1", "rw")
    assert own.others == ("additionalGids",)


def test_hooks_of_old_and_new_toolkits_have_the_same_names(node: CdiNode) -> None:
    """The program that runs a hook has changed; what it does is named alike."""
    new = {words[0] for words in only(node).edits.hooks}
    node.load("toolkit-1.14.yaml")
    old = {words[0] for words in only(node).edits.hooks}
    assert old == {"create-symlinks", "update-ldcache"}
    assert new == old | {"enable-cuda-compat"}


def test_a_name_without_quotes_is_the_name(node: CdiNode) -> None:
    """`0:1` is a MIG device, not a number of base 60."""
    node.load("mig.yaml")
    assert "0:1" in only(node).devices


def test_other_kinds_and_files_are_passed_over(node: CdiNode) -> None:
    """Specifications of others, and what is none by its name, concern nobody here."""
    node.write("kind: example.com/nic\ndevices: nonsense\n", "nic.yaml")
    node.write("kind: management.nvidia.com/gpu\n", "management.json.yaml")
    node.write("nonsense: [", "nvidia.yaml.bak")
    assert only(node).path == node.etc / "nvidia.yaml"


def test_a_later_directory_counts_more(node: CdiNode) -> None:
    """As CDI wants it; within a directory the order is by name."""
    later = node.write(MINIMAL, "z.yaml", later=True)
    first = node.write(MINIMAL, "a.yml", later=True)
    assert [s.path for s in read(node).specs] == [first, later, node.etc / "nvidia.yaml"]


def test_no_directory_is_no_specification(tmp_path: Path) -> None:
    """A node that never had one is not an error of reading."""
    assert SpecFiles([str(tmp_path / "none")]).read() == FoundSpecs((), ())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("kind: [", "while parsing"),
        ("- a\n", "the document is ['a'], not a mapping"),
        (MINIMAL + "  containerEdits: 3\n", "containerEdits is '3', not a mapping"),
        ("kind: nvidia.com/gpu\ndevices: x\n", "devices is 'x', not a list"),
        ("kind: nvidia.com/gpu\ndevices:\n- {}\n", "name is None, not a text"),
        (MINIMAL + "containerEdits: {env: [A]}\n", "an entry of env is 'A', not NAME=value"),
        (
            MINIMAL + "containerEdits: {deviceNodes: [{path: dev/x}]}\n",
            "path is 'dev/x', not an absolute path",
        ),
        (
            MINIMAL + "containerEdits: {mounts: [{hostPath: /a/../b, containerPath: /b}]}\n",
            "hostPath is '/a/../b', not an absolute path",
        ),
        (
            MINIMAL + 'containerEdits: {deviceNodes: [{path: "/dev/a\\tb"}]}\n',
            "not an absolute path",
        ),
        (
            MINIMAL + "containerEdits: {deviceNodes: [{path: /dev/x, permissions: all}]}\n",
            "permissions is 'all', not of the letters r, w and m",
        ),
        (MINIMAL + 'containerEdits: {env: ["A\\0=1"]}\n', "not NAME=value"),
        (MINIMAL + "containerEdits: {hooks: [x]}\n", "an entry of hooks is 'x', not a mapping"),
        ("\udcff", "utf-8"),
        ("a: " + "[" * 500, "nested more than 32 deep"),
        ("a: " + "[" * 500_000, "nest"),  # newer libraries refuse it before we do
        ("a: &a [x]\nb: [*a, *a]\n", "it has an alias, *a"),
    ],
)
def test_a_malformed_file_is_a_sentence(node: CdiNode, text: str, why: str) -> None:
    """The sentence has the file and what is wrong with it; the other files still count."""
    broken = node.run / "broken.yaml"
    broken.write_bytes(text.encode("utf-8", "surrogateescape"))
    found = read(node)
    assert [spec.path.name for spec in found.specs] == ["nvidia.yaml"]
    (problem,) = found.problems
    assert problem.startswith(f"{broken} is no CDI specification (")
    assert why in problem


def test_a_file_that_cannot_be_read_is_a_sentence(node: CdiNode) -> None:
    """A link to nowhere is told, with what the system says."""
    (node.etc / "dangling.yaml").symlink_to("nowhere")
    assert read(node).problems == (
        f"{node.etc / 'dangling.yaml'} cannot be read (No such file or directory)",
    )


def test_a_huge_file_is_not_parsed(node: CdiNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a size that no specification has does not hold up a task."""
    monkeypatch.setattr(spec, "_MAX_BYTES", 10)
    (problem,) = read(node).problems
    assert "longer than 10 bytes" in problem


def test_a_pipe_is_not_waited_for(node: CdiNode) -> None:
    """Every reservation would wait for whoever is to write to it."""
    os.mkfifo(node.etc / "pipe.yaml")
    assert read(node).problems == (
        f"{node.etc / 'pipe.yaml'} cannot be read (it is not a regular file)",
    )


def test_a_file_is_parsed_again_only_when_it_has_changed(
    node: CdiNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reservation does not pay for parsing what has been parsed before."""
    parsed: list[Path] = []
    document = spec._document

    def counted(path: Path) -> object:
        parsed.append(path)
        return document(path)

    monkeypatch.setattr(spec, "_document", counted)
    files = SpecFiles(node.directories)
    before = files.read()
    assert files.read() == before
    assert len(parsed) == 1
    touch_later(node.etc / "nvidia.yaml")
    assert files.read() == before
    assert len(parsed) == 2
    node.write(MINIMAL)
    assert list(files.read().specs[0].devices) == ["0"]


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "kind",
                    "devices",
                    "name",
                    "containerEdits",
                    "env",
                    "mounts",
                    "hooks",
                    "args",
                    "path",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(DOCUMENTS)
def test_any_document_is_a_specification_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, document: object
) -> None:
    """Whatever a file holds, reading it ends with an answer."""
    directory = tmp_path_factory.getbasetemp() / "any"
    directory.mkdir(exist_ok=True)
    whole = {"kind": spec.KIND, "devices": [document], "containerEdits": document}
    (directory / "a.json").write_text(json.dumps(whole))
    (directory / "b.yaml").write_text(yaml.safe_dump(whole))
    found = SpecFiles([str(directory)]).read()
    assert len(found.specs) + len(found.problems) == 2
