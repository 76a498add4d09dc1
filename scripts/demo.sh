#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Shows the plugin on simulated GPUs: in a Nomad agent of its own where there is a nomad, else
# under the host that the plugin brings along. Touches nothing outside a temporary folder.
set -euo pipefail
cd "$(dirname "$0")/.."

plugin=${NVIDIA_VGPU_PLUGIN:-$PWD/.venv/bin/nvidia-vgpu}
python=$(dirname "$plugin")/python
nomad=$(command -v nomad || echo "${NVIDIA_VGPU_NOMAD_DIR:-$PWD/build/nomad}/nomad")
patience_s=120

if [ ! -x "$plugin" ]; then
  echo "$plugin is not there: make setup" >&2
  exit 1
fi
title() { printf '\n== %s\n\n' "$1"; }

try_next() {
  local program=${plugin#"$PWD/"}
  title "Try next"
  cat <<TEXT
Here, without a GPU:
  $program plan --vgpus 8 --sharing mps --simulate h100-80gb-hbm3:8
      what Nomad would see of eight H100 that are shared by MPS
  $program launch --vgpus 4 --simulate l4:2 --watch
      the plugin as Nomad starts it, until Ctrl-C
On a node with GPUs:
  nvidia-vgpu plan --vgpus 8
      what its own GPUs would become; it starts and changes nothing
  docs/quickstart.md
      how to install it
TEXT
}

if [ ! -x "$nomad" ]; then
  echo "No nomad on PATH nor in build/nomad (make nomad builds it): the plugin starts under its own host."
  node=(--vgpus 16 --simulate a100-sxm4-80gb:2 --simulate t4)
  title "What Nomad would see, and what a task would be told: nvidia-vgpu plan ${node[*]}"
  "$plugin" plan --config /dev/null "${node[@]}"
  title "Figures of the GPUs, three times: nvidia-vgpu launch --watch"
  "$plugin" launch --watch "${node[@]}" |
    awk '/^Stats/ { looks++ } looks > 3 { exit } looks && /^(Figure|GPU util|Memory state|Power|Temp|$)/'
  try_next
  exit
fi

work=$(mktemp -d /tmp/vgpu-demo.XXXXXX) # short because it ends up in socket paths
agent=

cleanup() {
  if [ -n "$agent" ]; then
    kill "$agent" 2>/dev/null || true
    for _ in $(seq 100); do
      kill -0 "$agent" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$agent" 2>/dev/null || true
  fi
  while read -r mounted; do
    umount --lazy "$mounted" 2>/dev/null || true
  done < <(awk -v below="$work/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | sort -r)
  # Never through a mount that would not go.
  rm -rf --one-file-system "$work" || true
}
trap cleanup EXIT

fail() {
  echo "demo: $1. The end of the agent's log:" >&2
  tail -n 30 "$work/agent.log" >&2
  exit 1
}

await() { # what, command ...: waits until it succeeds, and says so on a terminal
  local what=$1 begin=$SECONDS deadline=$((SECONDS + patience_s)) told=
  shift
  until "$@" >/dev/null 2>&1; do
    if [ -t 2 ]; then
      told=yes
      printf '\r  waiting for %s: %s s ' "$what" $((SECONDS - begin)) >&2
    fi
    if ! kill -0 "$agent" 2>/dev/null; then fail "the agent ended before $what"; fi
    if [ "$SECONDS" -ge "$deadline" ]; then fail "waited $patience_s s for $what"; fi
    sleep 0.2
  done
  if [ -n "$told" ]; then printf '\r\033[K' >&2; fi
}

free_ports() { # three, below those that the kernel gives to outgoing connections meanwhile
  "$python" - <<'PY'
import contextlib, random, socket

with contextlib.ExitStack() as open_at_once:  # so that none comes twice
    ports = []
    while len(ports) < 3:
        port = random.randrange(10_000, 20_000)
        with contextlib.suppress(OSError):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):  # serf wants both
                open_at_once.enter_context(socket.socket(type=kind)).bind(("127.0.0.1", port))
            ports.append(port)
print(*ports)
PY
}

node_is_ready() { [ "$("$nomad" node status -self -t '{{.Status}}')" = ready ]; }
allocations() { # job, status: the ids of those in that status
  "$nomad" job allocs -t "{{range .}}{{if eq .ClientStatus \"$2\"}}{{println .ID}}{{end}}{{end}}" "$1" |
    sed '/^$/d'
}
has_allocations() { [ "$(allocations "$1" "$2" | wc -l)" -ge "$3" ]; }
figures() { # of one vGPU
  "$nomad" node status -self -stats |
    awk -v vgpu="[$vgpu]" '/^Device / || /^$/ { shown = 0 } /^Device / && index($0, vgpu) { shown = 1 } shown'
}
look() { # at what of them moves, in a line
  figures | awk -F ' += ' '/^(GPU utilization|Memory state|Power usage|Temperature)/ {
    printf "%s%s %s", found++ ? "   " : "", $1, $2 } END { if (found) print "" }'
}
seen=
has_moved() {
  local now
  now=$(look)
  if [ -z "$now" ] || [ "$now" = "$seen" ]; then return 1; fi
  seen=$now
}
told() { "$nomad" alloc logs "$1" "$2" | grep '^NVIDIA_'; }

read -r http rpc serf < <(free_ports)
mkdir -p "$work/plugins" "$work/data" "$work/tmp"
ln -s "$plugin" "$work/plugins/nvidia-vgpu"
cat >"$work/places.hcl" <<HCL
plugin_dir           = "$work/plugins"
data_dir             = "$work/data"
disable_update_check = true

ports {
  http = $http
  rpc  = $rpc
  serf = $serf
}

client {
  options = {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
  }
}
HCL

unset "${!NOMAD_@}" NVIDIA_VGPU_NOMAD_DIR NVIDIA_VGPU_PLUGIN # tasks would inherit them
export NOMAD_ADDR=http://127.0.0.1:$http NOMAD_CLI_SHOW_HINTS=0

title "A Nomad agent with three simulated GPUs: examples/agent-simulated.hcl"
sed -n '/^plugin "nvidia-vgpu"/,/^}/p' examples/agent-simulated.hcl
# In a session of its own: Ctrl-C must not reach it, for with the second signal, ours, it leaves
# its tasks behind.
(cd "$work" && TMPDIR=$work/tmp exec setsid "$nomad" agent -dev -bind 127.0.0.1 \
  -config "$OLDPWD/examples/agent-simulated.hcl" -config "$work/places.hcl") \
  >"$work/agent.log" 2>&1 &
agent=$!
await "the node" node_is_ready

title "What the node offers: each GPU as 16 vGPUs (nomad node status)"
"$nomad" node status -self -t '{{range .NodeResources.Devices}}{{.Vendor}}/{{.Type}}/{{.Name}}: {{len .Instances}} vGPUs of {{with index .Attributes "vgpu_memory"}}{{.IntVal}} {{.Unit}}{{end}}, such as {{with index .Instances 0}}{{.ID}}{{end}}
{{end}}'

title "The example job, and what its task was told: examples/gpu-test.nomad.hcl"
"$nomad" job run -detach examples/gpu-test.nomad.hcl >/dev/null
await "the end of the job" has_allocations gpu-test complete 1
task=$(allocations gpu-test complete)
await "the output of the job" told "$task" smi
told "$task" smi

vgpu=$(told "$task" smi | sed -n 's/^NVIDIA_VGPU_IDS=//p')
title "Figures of that vGPU's GPU, each time they change (nomad node status -stats)"
for _ in 1 2 3; do
  await "a change of the figures" has_moved
  echo "$seen"
done

title "Two tasks that share one GPU: examples/shared-gpu.nomad.hcl"
"$nomad" job run -detach examples/shared-gpu.nomad.hcl >/dev/null
await "two running tasks" has_allocations shared-gpu running 2
allocations shared-gpu running >"$work/sharers"
while read -r task; do
  await "the output of the task" told "$task" sharer
  echo "task ${task%%-*}"
  told "$task" sharer | sed 's/^/  /'
done <"$work/sharers"

try_next
echo
echo "demo: done; the agent and its folder are removed"
