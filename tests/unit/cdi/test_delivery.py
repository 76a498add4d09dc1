# SPDX-License-Identifier: MPL-2.0
"""What a task is given from CDI specifications."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from cdi_node.node import GPUS, MIG_DEVICES, NAMES, CdiNode, elf, touch_later
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nomad_nvidia_vgpu.cdi.delivery import CdiNodes
from nomad_nvidia_vgpu.cdi.shared_object import SharedObject, shared_object
from nomad_nvidia_vgpu.errors import RequestError
from nomad_nvidia_vgpu.gpu.model import Gpu
from nomad_nvidia_vgpu.sharing.grant import Delivery, DeviceNode, Mount
from unit.example_gpus import gpu, mig

FIRST = gpu(GPUS[0], pci_bus_id="0000:07:00.0")
SECOND = gpu(GPUS[1], pci_bus_id="0000:08:00.0")
MIG_1 = mig(MIG_DEVICES[0], GPUS[0], gpu_instance_id=1, compute_instance_id=0)
MIG_2 = mig(MIG_DEVICES[1], GPUS[0], gpu_instance_id=2, compute_instance_id=0)

LIB64 = "/usr/local/nvidia/lib64"
LIB32 = "/usr/local/nvidia/lib"


@pytest.fixture
def node(tmp_path: Path) -> CdiNode:
    """A node with the specification of toolkit 1.17, and no kernel module."""
    return CdiNode(tmp_path)


def nodes(node: CdiNode) -> CdiNodes:
    """Gives a fresh source of device nodes."""
    return CdiNodes(node.directories, driver=node.driver)


def deliver(node: CdiNode, *gpus: Gpu) -> Delivery:
    """Gives what a task with these GPUs gets."""
    return nodes(node).deliver(gpus)


def own(delivery: Delivery) -> set[str]:
    """Gives the device files that belong to single GPUs."""
    return {d.task_path for d in delivery.devices if d.task_path[-1].isdigit()}


def refusal(node: CdiNode, *gpus: Gpu) -> str:
    """Gives the words with which a task with these GPUs is refused."""
    with pytest.raises(RequestError) as refused:
        deliver(node, *gpus)
    return str(refused.value)


def test_a_task_gets_the_files_of_its_gpu_and_of_the_driver(node: CdiNode) -> None:
    """Its own GPU's file, the driver's, and those of no other GPU."""
    found = deliver(node, FIRST)
    assert [d.task_path for d in found.devices] == [
        "/dev/nvidia-modeset",
        "/dev/nvidia-uvm",
        "/dev/nvidia-uvm-tools",
        "/dev/nvidia1",
        "/dev/nvidiactl",
    ]
    assert DeviceNode(f"{node.root}/dev/nvidia1", "/dev/nvidia1", "rwm") in found.devices


def test_two_gpus_share_what_is_the_drivers(node: CdiNode) -> None:
    """Of what both GPUs need there is one."""
    found = deliver(node, SECOND, FIRST)
    assert own(found) == {"/dev/nvidia0", "/dev/nvidia1"}
    assert len(found.devices) == 6


def test_mounts_are_as_the_specification_has_them(node: CdiNode) -> None:
    """Host and container paths and what is read-only are kept."""
    node.load("toolkit-1.18.json")
    (node.etc / "nvidia.yaml").unlink()
    found = deliver(node, FIRST)
    assert Mount(f"{node.root}/tmp/nvidia-mps", "/tmp/nvidia-mps", read_only=False) in found.mounts
    library = "/usr/lib64/libcuda.so.580.95.05"
    assert Mount(f"{node.root}{library}", library, read_only=True) in found.mounts


def test_each_library_is_also_there_by_the_name_that_programs_ask_for(node: CdiNode) -> None:
    """CUDA programs ask for libcuda.so.1, and nothing makes that link in a task of Nomad."""
    mounts = {m.task_path: m.host_path for m in deliver(node, FIRST).mounts}
    host = f"{node.root}/usr/lib/x86_64-linux-gnu"
    assert {path: at for path, at in mounts.items() if path.startswith(f"{LIB64}/")} == {
        f"{LIB64}/libcuda.so.1": f"{host}/libcuda.so.575.57.08",
        f"{LIB64}/libcuda.so": f"{host}/libcuda.so.575.57.08",  # the link of a hook
        f"{LIB64}/libnvidia-ml.so.1": f"{host}/libnvidia-ml.so.575.57.08",
        f"{LIB64}/libnvidia-glcore.so.575.57.08": f"{host}/libnvidia-glcore.so.575.57.08",
        f"{LIB64}/libvdpau_nvidia.so.1": f"{host}/vdpau/libvdpau_nvidia.so.575.57.08",
    }
    assert mounts[f"{LIB32}/libcuda.so.1"].endswith("/i386-linux-gnu/libcuda.so.575.57.08")


def test_the_loader_is_told_where_the_libraries_are_and_nowhere_else(node: CdiNode) -> None:
    """A directory that holds other libraries too would take precedence over a program's own."""
    assert deliver(node, FIRST).envs["LD_LIBRARY_PATH"] == f"{LIB64}:{LIB32}"
    node.load("mig.yaml")
    assert deliver(node, MIG_1).envs["LD_LIBRARY_PATH"] == LIB64


def test_without_libraries_the_loader_is_told_nothing(node: CdiNode) -> None:
    """A specification of device files alone sets no variable."""
    node.write(f"kind: nvidia.com/gpu\ndevices: [{{name: {FIRST.uuid}}}]\n")
    assert deliver(node, FIRST) == Delivery()


def test_the_variable_that_demands_a_runtime_is_left_out(node: CdiNode) -> None:
    """The toolkit sets it to `void`, and docker tasks would fail; the other variables stay."""
    node.load("toolkit-1.18.json")
    (node.etc / "nvidia.yaml").unlink()
    assert deliver(node, FIRST).envs == {
        "NVIDIA_CTK_LIBCUDA_DIR": "/usr/lib64",
        "LD_LIBRARY_PATH": LIB64,
    }


def test_a_gpu_is_found_by_its_device_file_where_only_indexes_are_named(node: CdiNode) -> None:
    """The toolkit's index is not the number in the name of the file, and the file decides."""
    node.load_driver()
    node.load("toolkit-1.14.yaml")
    assert own(deliver(node, FIRST)) == {"/dev/nvidia1"}
    assert own(deliver(node, SECOND)) == {"/dev/nvidia0", "/dev/dri/card1"}


def test_a_mig_device_is_found_by_uuid_or_by_its_files(node: CdiNode) -> None:
    """Each MIG device gets the files of its instances and not its neighbour's."""
    node.load_driver()
    node.load("mig.yaml")
    caps = "/dev/nvidia-caps/nvidia-cap"
    assert own(deliver(node, MIG_1)) == {"/dev/nvidia1", f"{caps}12", f"{caps}13"}
    assert own(deliver(node, MIG_2)) == {"/dev/nvidia1", f"{caps}21", f"{caps}22"}


def test_a_gpu_that_is_not_named_is_refused_with_the_remedy(node: CdiNode) -> None:
    """The sentence has the GPU, where was looked, and the command."""
    text = refusal(node, FIRST, gpu("GPU-new"))
    assert text.startswith("cannot reserve GPU-new: no CDI specification in ")
    assert str(node.etc) in text
    assert f"nvidia-ctk cdi generate --output={node.etc}/nvidia.yaml" in text
    assert "--device-name-strategy=uuid" in text


def test_without_a_specification_the_remedy_is_to_make_one(tmp_path: Path) -> None:
    """A node on which nobody has run the toolkit yet."""
    empty = CdiNodes([str(tmp_path)], driver=tmp_path)
    with pytest.raises(RequestError) as refused:
        empty.deliver([FIRST])
    assert str(refused.value) == (
        f"cannot reserve {FIRST.uuid}: no CDI specification in {tmp_path} names it: run"
        f" `nvidia-ctk cdi generate --output={tmp_path}/nvidia.yaml` on the node"
    )


def test_an_unreadable_specification_is_named(node: CdiNode) -> None:
    """Who cannot find the GPU says which files it could not read."""
    node.write("kind: [")
    assert "nvidia.yaml is no CDI specification (while parsing" in refusal(node, FIRST)


def test_a_specification_of_another_order_of_gpus_is_refused(node: CdiNode) -> None:
    """After a card was taken out, the old file would hand out another one's GPU."""
    node.load_driver()
    place = node.driver / "nvidia/gpus/0000:07:00.0/information"
    place.write_text(place.read_text().replace("\t 1", "\t 0"))
    text = refusal(node, FIRST)
    assert "it is /dev/nvidia1, by the driver /dev/nvidia0" in text
    assert f"--output={node.etc}/nvidia.yaml" in text


def test_what_has_left_the_host_is_refused_by_name(node: CdiNode) -> None:
    """After an upgrade of the driver the old file names libraries that are gone."""
    gone = node.root / "usr/lib/x86_64-linux-gnu/libcuda.so.575.57.08"
    gone.unlink()
    text = refusal(node, FIRST)
    assert str(gone) in text
    assert f"nvidia-ctk cdi generate --output={node.etc}/nvidia.yaml" in text
    node.make("/usr/lib/x86_64-linux-gnu/libcuda.so.575.57.08")
    assert deliver(node, FIRST).mounts


def test_a_refusal_of_very_much_stays_readable(node: CdiNode) -> None:
    """Where all is gone, some is named and the rest counted."""
    source = nodes(node)
    for path in (node.root / "dev").iterdir():
        path.unlink()
    with pytest.raises(RequestError, match=r" and 2 more, which"):
        source.deliver([FIRST])


def test_a_new_specification_counts_at_once(node: CdiNode) -> None:
    """The remedy works without a restart of the agent."""
    source = nodes(node)
    for path in node.etc.iterdir():
        path.unlink()
    with pytest.raises(RequestError):
        source.deliver([FIRST])
    node.load("toolkit-1.17.yaml")
    assert source.deliver([FIRST]).devices


def test_the_later_directory_decides(node: CdiNode) -> None:
    """What the toolkit's service writes at each boot replaces what was written once by hand."""
    node.write(f"kind: nvidia.com/gpu\ndevices: [{{name: {FIRST.uuid}}}]\n", later=True)
    assert deliver(node, FIRST) == Delivery()
    assert own(deliver(node, SECOND)) == {"/dev/nvidia0"}


def test_simulated_gpus_have_no_files(node: CdiNode) -> None:
    """They need no specification either."""
    assert deliver(node, gpu("GPU-simulated", simulated=True)) == Delivery()


def test_libraries_are_read_again_only_when_they_have_changed(node: CdiNode) -> None:
    """A reservation does not pay for reading forty libraries each time."""
    read: list[Path] = []

    def library_of(path: Path) -> SharedObject | None:
        read.append(path)
        return shared_object(path)

    source = CdiNodes(node.directories, driver=node.driver, library_of=library_of)
    first = source.deliver([FIRST])
    assert len(read) == 5
    assert source.deliver([FIRST]) == first
    assert len(read) == 5
    library = node.root / "usr/lib/x86_64-linux-gnu/libcuda.so.575.57.08"
    library.write_bytes(elf("libcuda.so.2"))
    touch_later(library)
    assert f"{LIB64}/libcuda.so.2" in {m.task_path for m in source.deliver([FIRST]).mounts}
    assert len(read) == 6


@pytest.mark.parametrize(
    ("spec", "lost"),
    [
        (
            "toolkit-1.14.yaml",
            (
                "chmod",
                "create-symlinks /dev/dri/by-path/pci-0000:08:00.0-card",
                "create-symlinks /usr/lib64/gbm/nvidia-drm_gbm.so",
            ),
        ),
        (
            "toolkit-1.17.yaml",
            (
                "create-symlinks /usr/lib/x86_64-linux-gnu/gbm/nvidia-drm_gbm.so",
                "enable-cuda-compat",
            ),
        ),
        ("toolkit-1.18.json", ("additionalGids", "disable-device-node-modification")),
        ("mig.yaml", ()),
    ],
)
def test_what_no_task_gets_is_named(tmp_path: Path, spec: str, lost: tuple[str, ...]) -> None:
    """Hooks whose work is not done otherwise, and what Nomad has no word for; links one by one."""
    node = CdiNode(tmp_path, spec)
    assert nodes(node).without_equivalent() == lost


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(NAMES),
    st.lists(st.sampled_from([FIRST, SECOND, MIG_1, MIG_2]), min_size=1, max_size=4),
    st.randoms(),
)
def test_no_target_twice_and_one_order(
    tmp_path_factory: pytest.TempPathFactory, spec: str, gpus: list[Gpu], chance: random.Random
) -> None:
    """Whatever GPUs a task has, in whatever order, it gets one thing at each path, sorted."""
    root = tmp_path_factory.mktemp("node")
    node = CdiNode(root, spec)
    node.load_driver()
    try:
        found = deliver(node, *gpus)
    except RequestError:
        return
    targets = [m.task_path for m in found.mounts]
    assert targets == sorted(set(targets))
    files = [d.task_path for d in found.devices]
    assert files == sorted(set(files))
    assert not set(files) & set(targets)
    shuffled = gpus * 2
    chance.shuffle(shuffled)
    assert deliver(node, *shuffled) == found
