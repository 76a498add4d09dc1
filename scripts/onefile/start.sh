#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# nvidia-vgpu, a Nomad device plugin: these lines, and behind them a zip archive that Python runs.
built_bytes=@LENGTH@
level="${NOMAD_PLUGIN_MAGIC_COOKIE:+[ERROR] }"
# A file that was cut off has lost the archive's directory, and Python would take it for source.
bytes=$(stat -Lc %s "$0" 2>/dev/null)
if [ "${bytes:=$built_bytes}" != "$built_bytes" ]; then
  echo "$level$0 is damaged ($bytes bytes long, and built with $built_bytes): copy it again" >&2
  exit 1
fi
# -I -S: neither the environment nor site-packages of the machine can change what is imported.
for python in python3 @PYTHONS@; do
  path=$(command -v "$python") || continue
  # A shim of pyenv is there for each version that was ever installed, and may start none.
  case $path in */shims/*) "$path" -I -S -c "" 2>/dev/null || continue ;; esac
  exec "$path" -I -S "$0" "$@"
done
echo "${level}nvidia-vgpu needs @NEEDED@, and PATH holds no python3 that starts: install one" >&2
exit 1
