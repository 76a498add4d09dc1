# SPDX-License-Identifier: MPL-2.0
"""Every module has its test file, and every test file its module."""

from __future__ import annotations

from pathlib import Path

import pytest

import nomad_nvidia_vgpu

SOURCE = Path(nomad_nvidia_vgpu.__file__).parent
TESTS = Path(__file__).parent

WITHOUT_TESTS = {
    "goplugin/health_service.py": "handlers of a running gRPC server: tested in `contract`",
    "serve.py": "joins the others in a process of its own: tested in `contract`",
    "cookie.py": "constants; a wrong one fails every test of `contract`",
    "gpu/sink.py": "a protocol",
    "sharing/task_env.py": "names; a wrong one fails the tests of what a task is given",
    "config/blocks.py": "declarations, tested with those of `options.py`",
    "goplugin/controller.py": "handlers of a running gRPC server: tested in `contract`",
    "rpc/client.py": "stands in Nomad's place: what it says and hears is tested in `contract`",
}
"""Modules without a test file of their own, and why."""

IN_CONTRACT = {
    f"sharing/mps/{name}.py" for name in ("control", "daemon", "enforcer", "root", "view")
}
"""Modules that are nothing without processes of MPS: their tests stand in `contract/mps`."""

OF_NO_MODULE = {
    "test_mirror.py": "this file",
    "test_docs.py": "what is written in docs/",
    "test_doc_commands.py": "the commands and blocks in docs/",
    "test_quoted_messages.py": "what docs/troubleshooting.md quotes",
    "test_check_table.py": "the table of checks in docs/operations.md",
    "test_evidence.py": "docs/evidence.md and the tables that it proves",
    "test_prose.py": "the words of pages, messages and docstrings",
    "test_dashboard.py": "examples/grafana-dashboard.json and the queries in docs/metrics.md",
    "test_alerts.py": "examples/alerts.yml",
    "test_ci_skips.py": "tests/conftest.py",
    "test_logging_and_locks.py": "the text of all modules, and held_locks.py beside it",
    "onefile/test_start.py": "scripts/onefile/__main__.py",
    "onefile/test_unpack.py": "scripts/onefile/unpack.py",
    "onefile/test_build.py": "scripts/onefile/build.py",
    "scripts/test_audit.py": "scripts/audit.py",
    "scripts/test_mutations.py": "scripts/mutations.py and tests/mutations.json",
    "scripts/test_dist.py": "scripts/dist.py",
    "scripts/test_license_texts.py": "scripts/license_texts.py",
    "scripts/test_pins.py": "scripts/pins.py and requirements/",
    "scripts/test_sbom.py": "scripts/sbom.py",
    "scripts/test_wheels.py": "scripts/wheels.py",
}
"""Test files that test no module, and what they test."""

MORE_THAN_ONE = {
    "cli/test_install_hostile.py": "cli/install.py",
    "cli/diagnosis/test_check_mps_tools.py": "cli/diagnosis/check_mps.py",
    "config/test_decode_gpu_blocks.py": "config/decode.py",
    "gpu/test_watch_sampling.py": "gpu/watch.py",
    "gpu/test_watch_signals.py": "gpu/watch.py",
    "device/test_fingerprint_attributes.py": "device/fingerprint.py",
    "tasks/test_attribution_forged.py": "tasks/attribution.py",
    "sharing/test_plan_groups.py": "sharing/plan.py",
}
"""Second test files of one module, so that none grows too long."""


def place_of_tests(module: str) -> str:
    """Gives where the tests of a module belong."""
    folder, _, name = module.rpartition("/")
    if module in IN_CONTRACT:
        folder = "../contract/mps"
    return f"{folder}/test_{name}".lstrip("/").replace("test___main__", "test_main")


MODULES = sorted(
    path.relative_to(SOURCE).as_posix()
    for path in SOURCE.rglob("*.py")
    if path.name != "__init__.py" and "generated" not in path.parts
)
TEST_FILES = sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_tested(module: str) -> None:
    """Each module has its test file at the mirrored place, or a reason to have none."""
    assert (TESTS / place_of_tests(module)).is_file() is (module not in WITHOUT_TESTS)


@pytest.mark.parametrize("file", TEST_FILES)
def test_every_test_file_is_of_a_module(file: str) -> None:
    """Each test file tests a module that is there."""
    wanted = {place_of_tests(module) for module in MODULES} | set(OF_NO_MODULE) | set(MORE_THAN_ONE)
    assert file in wanted


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("__init__.py")), ids=lambda p: p.parent.name)
def test_packages_hold_no_logic(path: Path) -> None:
    """A package's own file defines nothing, so that it needs no tests."""
    assert not any(word in path.read_text().split() for word in ("def", "class", "import"))


@pytest.mark.parametrize("file", [*TEST_FILES])
def test_files_stay_short(file: str) -> None:
    """A test file that grows past 400 lines is two."""
    assert len((TESTS / file).read_text().splitlines()) < 400


@pytest.mark.parametrize("module", sorted(m for m in MODULES if "generated" not in m))
def test_modules_are_short(module: str) -> None:
    """A module that grows past 400 lines is two."""
    assert len((SOURCE / module).read_text().splitlines()) <= 400
