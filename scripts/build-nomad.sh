#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Builds into $NOMAD_DIR: nomad and launcher of tests/e2e/nomad, nomad-1.1 of tests/e2e/nomad-1.1.
# Without Go it does nothing: the tests then use a nomad on PATH, or skip and say why.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "$NOMAD_DIR"
out=$(cd "$NOMAD_DIR" && pwd)
if ! command -v "${GO:-go}" >/dev/null; then
  echo "no Go here: Nomad is not built, tests that need it skip unless nomad is on PATH"
  exit 0
fi

build() { # folder of the go.mod, package, name of the binary, build tags
  local stamp=$out/$3.built-from
  if [ -x "$out/$3" ] && cmp -s "tests/e2e/$1/go.mod" "$stamp"; then return; fi
  echo "building $3 from tests/e2e/$1 (minutes, once)"
  (cd "tests/e2e/$1" && "${GO:-go}" build -buildvcs=false -tags "${4:-}" -o "$out/$3" "$2")
  cp "tests/e2e/$1/go.mod" "$stamp"
}

build nomad github.com/hashicorp/nomad nomad
build nomad github.com/hashicorp/nomad/plugins/shared/cmd/launcher launcher
# Without the tag its own NVIDIA plugin ends the agent where an NVML can be loaded.
build nomad-1.1 github.com/hashicorp/nomad nomad-1.1 nonvidia
