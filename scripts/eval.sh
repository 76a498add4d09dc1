#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Runs Nomad's plugin launcher against our plugin: fingerprint, stats, and a reservation of the
# first vGPU. Fails when one of them does not come.
#
#   scripts/eval.sh <folder of the launcher> [config file]
#
# The config file holds a `config { ... }` block; without one the GPUs are simulated. With
# INTERACTIVE=1 on a terminal the commands are yours to type.
set -euo pipefail
cd "$(dirname "$0")/.."

launcher=${1:?usage: scripts/eval.sh <folder of the launcher> [config file]}/launcher
plugin=${NVIDIA_VGPU_PLUGIN:-$PWD/.venv/bin/nvidia-vgpu}
patience_s=120
stats_lines=24

for program in "$launcher" "$plugin"; do
  if [ ! -x "$program" ]; then
    echo "$program is not there: make setup nomad (the launcher is built with Go)" >&2
    exit 1
  fi
done

work=$(mktemp -d)
pid=
cleanup() {
  exec 3>&- # the end of its input makes the launcher end the plugin, which a signal does not
  for _ in $(seq 50); do
    if [ -z "$pid" ] || ! kill -0 "$pid" 2>/dev/null; then break; fi
    sleep 0.1
  done
  if [ -n "$pid" ]; then kill "$pid" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap cleanup EXIT

config=${2:-$work/simulated.hcl}
if [ $# -lt 2 ]; then
  cat >"$config" <<'HCL'
config {
  vgpus    = 2
  simulate = ["a100-sxm4-80gb", "t4"]
}
HCL
fi

if [ "${INTERACTIVE:-}" = 1 ] && [ -t 0 ]; then
  "$launcher" device "$plugin" "$config"
  exit
fi

mkfifo "$work/commands"
touch "$work/said"
TMPDIR=$work "$launcher" device "$plugin" "$config" <"$work/commands" >"$work/said" 2>&1 &
pid=$!
exec 3>"$work/commands"

fail() {
  echo "eval: $1. All that the launcher said:" >&2
  cat "$work/said" >&2
  exit 1
}

await() { # what, pattern: waits until the launcher has said it
  local deadline=$((SECONDS + patience_s))
  until grep -qE -- "$2" "$work/said"; do
    if ! kill -0 "$pid" 2>/dev/null; then fail "the launcher ended before $1"; fi
    if [ "$SECONDS" -ge "$deadline" ]; then fail "no $1 within $patience_s s"; fi
    sleep 0.1
  done
}

say() { # one line at a time: of two that it reads at once the launcher drops the second
  printf '\n==> %s\n' "$1"
  cp "$work/said" "$work/said.before"
  echo "$1" >&3
}

answer() { # what the launcher said since the last command
  tail -c +"$(($(wc -c <"$work/said.before") + 1))" "$work/said" | sed 's/^\(> *\)*//'
}

await prompt 'commands are'

say 'fingerprint()'
await 'fingerprint' '^}|FingerprintResponse[{][}]'
answer
vgpu=$(sed -nE '/^ *ID: +"/{s/^ *ID: +"([^"]+)".*/\1/p;q}' "$work/said")
if [ -z "$vgpu" ]; then fail "the fingerprint holds no vGPU"; fi

say 'stats()'
await 'stats' "\"$vgpu\": &device.DeviceStats"
answer | sed -n "1,${stats_lines}p"
echo "    ... and so on for each vGPU, each second"
say 'stop_stats()'
await 'end of the stats' 'stats output closed'

say "reserve($vgpu)"
await 'reservation' '"NVIDIA_VISIBLE_DEVICES": *"'
answer

say 'reserve(GPU-that-is-not-here-0)'
await 'refusal' 'GPU-that-is-not-here-0.* is not a vGPU of this node'
answer

say 'exit()'
exec 3>&-
if ! wait "$pid"; then fail "the launcher failed"; fi
pid=
if grep -E 'panic|Traceback' "$work/said"; then fail "something broke"; fi
echo
echo "eval: fingerprint, stats and reservation work under Nomad's launcher"
