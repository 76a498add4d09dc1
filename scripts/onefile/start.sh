#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# nvidia-vgpu, a Nomad device plugin: these lines, and behind them a zip archive that Python runs.
# -I -S: neither the environment nor site-packages of the machine can change what is imported.
for python in python3 @PYTHONS@; do
  if command -v "$python" >/dev/null; then exec "$python" -I -S "$0" "$@"; fi
done
echo "${NOMAD_PLUGIN_MAGIC_COOKIE:+[ERROR] }nvidia-vgpu needs @NEEDED@, and PATH holds no python3: install one" >&2
exit 1
