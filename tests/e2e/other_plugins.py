# SPDX-License-Identifier: MPL-2.0
"""Programs that stand for the plugins that operators come from, neither of which can be built here.

They publish the same groups and ids, take the same options and give tasks the same variables as their
sources say. What is behind that is our own code.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ORIGINAL_OPTIONS = ("enabled", "fingerprint_period", "ignored_gpu_ids", "vgpus")

_COMMON = """
import sys
from nomad_nvidia_vgpu.config import hcl_spec
from nomad_nvidia_vgpu.device import plugin
from nomad_nvidia_vgpu.device.reserve import Reservation, reserve
from nomad_nvidia_vgpu.sharing.task_env import RUNTIME_ENV
from nomad_nvidia_vgpu.rpc import base_service

def with_one_variable(*given):
    return Reservation({RUNTIME_ENV: reserve(*given).envs[RUNTIME_ENV]})

plugin.reserve = with_one_variable
all_options = hcl_spec.schema()
base_service.schema = lambda: tuple(one for one in all_options if one.name in OPTIONS)
"""

_ORIGINAL = f"""
OPTIONS = {ORIGINAL_OPTIONS}
{_COMMON}
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId

base_service.__version__ = "v0.1.0"
VgpuId.__str__ = lambda self: f"{{self.gpu_uuid}}-{{self.number}}"  # whatever ours becomes
"""

_OFFICIAL = f"""
OPTIONS = {ORIGINAL_OPTIONS[:-1]}
{_COMMON}
from nomad_nvidia_vgpu.config import decode
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId

base_service.PLUGIN_NAME = "nvidia-gpu"
checked = decode.decode
decode.decode = lambda given: checked({{**given, "vgpus": 1, "vendor": "nvidia"}})
VgpuId.__str__ = lambda self: self.gpu_uuid
VgpuId.parse = classmethod(lambda cls, text: cls(text, 0))
"""

_START = "\nfrom nomad_nvidia_vgpu.__main__ import main\nmain()\n"

_GO_BINARY = """
#include <unistd.h>
/* What Go writes into each binary, by which ours knows the original. */
const char module[] = "path github.com/{module}";
int main(void) {{ return execl("{python}", "{python}", "{script}", module, (char *)0); }}
"""


def install_original(path: Path, workspace: Path) -> None:
    """Puts what stands for letmutx/nomad-nvidia-vgpu-plugin at `path`; skips without a C compiler."""
    _install(path, workspace, "letmutx/nomad-nvidia-vgpu-plugin", _ORIGINAL)


def install_official(path: Path, workspace: Path) -> None:
    """Puts what stands for HashiCorp's plugin at `path`; skips without a C compiler."""
    _install(path, workspace, "hashicorp/nomad-device-nvidia", _OFFICIAL)


def _install(path: Path, workspace: Path, module: str, code: str) -> None:
    script, source = workspace / f"{path.name}.py", workspace / f"{path.name}.c"
    script.write_text(code + _START)
    source.write_text(_GO_BINARY.format(python=sys.executable, script=script, module=module))
    try:
        subprocess.run(["cc", "-o", path, source], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"{module} has no stand-in, for C does not compile: {error}")
