#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Starts the aarch64 file and the wheel on another machine: with Debian's Python for arm64 under
# qemu-user, spoken to as Nomad would. Simulated GPUs. Unpacks all it needs below build/, installs
# nothing. Needs Debian's apt and the network.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$PWD/.venv/bin
work=$PWD/build/aarch64
version=$("$host/python" -c 'import nomad_nvidia_vgpu; print(nomad_nvidia_vgpu.__version__)')
file=$PWD/dist/nvidia-vgpu-$version-linux-aarch64
wheel=$PWD/dist/nomad_nvidia_vgpu-$version-py3-none-any.whl

step() { printf '\n== %s\n' "$1"; }

fetch() { # architecture, where to, packages ...: unpacks them and what they need, installs nothing
  local arch=$1 root=$2 apt=$work/apt-$1
  shift 2
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$root"
  local options=(-qq -o "APT::Architecture=$arch" -o "APT::Architectures=$arch" -o APT::Sandbox::User=
    -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o Dir::State::status=/dev/null)
  apt-get "${options[@]}" update
  apt-get "${options[@]}" --no-install-recommends --download-only --yes install "$@"
  for package in "$apt"/cache/archives/*.deb; do dpkg -x "$package" "$root"; done
}

if [ ! -x "$work/bin/python3" ]; then
  step "Debian's qemu-user and its Python for arm64"
  fetch "$(dpkg --print-architecture)" "$work/qemu" qemu-user-static
  fetch arm64 "$work/root" python3 libstdc++6
  mkdir -p "$work/bin"
  cat >"$work/bin/python3" <<SH
#!/bin/sh
exec "$work/qemu/usr/bin/qemu-aarch64-static" -L "$work/root" "$work/root/usr/bin/python3" "\$@"
SH
  chmod +x "$work/bin/python3"
fi
export PATH=$work/bin:$PATH NVIDIA_VGPU_UNPACK_DIR=$work/unpacked
mkdir -p "$NVIDIA_VGPU_UNPACK_DIR"
python3 -c 'import platform; print(platform.machine(), platform.python_version())'

check() { # plugin: handshake, config, fingerprint, reservation and stats
  "$host/nvidia-vgpu" launch --plugin "$1" --simulate a100-sxm4-80gb:2 --vgpus 4 --json >"$work/answer.json"
  "$host/python" - "$work/answer.json" <<'PY'
import json
import sys

answer = json.load(open(sys.argv[1]))
(group,) = answer["groups"]
assert len(group["vgpus"]) == 8, group
assert all(vgpu["healthy"] for vgpu in group["vgpus"]), group
assert answer["reservation"]["envs"]["NVIDIA_VGPU_IDS"] == answer["reservation"]["ids"][0], answer
(stats,) = answer["stats"].values()
assert len(stats) == 8, stats
print("handshake, config, 8 vGPUs, a reservation and stats:", answer["plugin"]["version"])
PY
}

step "The single file"
"$file" --version
check "$file"

step "The wheel"
rm -rf "$work/site"
tag=$(python3 -c 'import sys; print("%d%d" % sys.version_info[:2])')
"$host/python" -m pip install --quiet --disable-pip-version-check --target "$work/site" --no-deps \
  --only-binary :all: --python-version "$tag" --platform manylinux_2_28_aarch64 \
  --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 --require-hashes -r requirements/run.txt
"$host/python" -m pip install --quiet --disable-pip-version-check --target "$work/site" --no-deps "$wheel"
cat >"$work/bin/nvidia-vgpu-wheel" <<SH
#!/bin/sh
PYTHONPATH="$work/site" exec "$work/bin/python3" -m nomad_nvidia_vgpu "\$@"
SH
chmod +x "$work/bin/nvidia-vgpu-wheel"
"$work/bin/nvidia-vgpu-wheel" --version
check "$work/bin/nvidia-vgpu-wheel"

step "aarch64: the file and the wheel start and serve under $(python3 -c 'import platform; print(platform.machine())')"
