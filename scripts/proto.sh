#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Generates Python from proto/ below the folder given. The virtual path puts the modules into
# our package, since protoc derives import names from paths.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$1
target=nomad_nvidia_vgpu/rpc/generated
PATH=$PWD/.venv/bin:$PATH .venv/bin/python -m grpc_tools.protoc \
  "-I$target=proto" --python_out="$out" --grpc_python_out="$out" \
  --mypy_out="$out" --mypy_grpc_out="$out" \
  "$target"/{structs,hclspec,base,device}.proto
# Without services there is nothing in these.
rm -f "$out/$target"/{structs,hclspec}_pb2_grpc.py "$out/$target"/{structs,hclspec}_pb2_grpc.pyi
