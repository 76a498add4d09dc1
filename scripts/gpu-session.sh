#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Everything that a real GPU can answer, in less than nine minutes: the plugin beside nvidia-smi,
# then the experiments of tests/gpu. Report and logs go to $OUT (default: build/gpu-test).
#
#   scripts/gpu-session.sh [--set-compute-mode] [--only NAME ...]
#
# Uses the Python of GPU_PYTHON with the plugin in it; else makes one from what `make gpu-carry` has
# packed, without a network. Changes no setting of the GPU; --set-compute-mode is for a GPU of your
# own, and lets one experiment set EXCLUSIVE_PROCESS and take it back.
set -uo pipefail
cd "$(dirname "$0")/.."

all_s=${GPU_SESSION_S:-530}
tests_s=80
out=${OUT:-build/gpu-test}
carry=build/gpu-carry
venv=build/gpu-venv
driver=/usr/local/nvidia
export PYTHONUNBUFFERED=1
unset PYTHONPATH PYTHONHOME "${!CUDA_MPS_@}" "${!PYTEST_@}"

say() { echo "gpu-session: $1"; }

make_python() { # a venv in $venv from $carry, for the first Python that was packed
  local python version
  for python in python3 python3.12 python3.13 python3.14 python3.11 python3.10; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    if [ -f "$carry/requirements-$version.txt" ]; then break; fi
    version=
  done
  if [ -z "${version:-}" ]; then
    say "no Python here that $carry is for: run make gpu-carry where there is a network"
    return 1
  fi
  rm -rf "$venv"
  # Without pip: some systems have no ensurepip, and a pip was carried.
  "$python" -m venv --without-pip "$venv" || return 1
  local carried=("$carry"/pip-*.whl)
  local pip=("$venv/bin/python" "${carried[0]}/pip" install)
  local quietly=(--quiet --no-index --disable-pip-version-check --no-cache-dir)
  env -u PIP_FIND_LINKS -u PIP_INDEX_URL -u PIP_EXTRA_INDEX_URL PIP_CONFIG_FILE=/dev/null \
    "${pip[@]}" "${quietly[@]}" --no-deps --require-hashes --find-links "$carry/wheels" \
    -r "$carry/requirements-$version.txt" || return 1
  env -u PIP_FIND_LINKS PIP_CONFIG_FILE=/dev/null \
    "${pip[@]}" "${quietly[@]}" --no-deps --no-build-isolation -e . || return 1
}

# Where some images keep the driver, if nothing else finds it.
if [ -d "$driver/bin" ]; then PATH=$PATH:$driver/bin; fi
if [ -d "$driver/lib64" ] && ! ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1'; then
  export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$driver/lib64
fi

mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -f "$out"/{pytest,raw,mps}.log "$out"/raw.json "$out"/report.md
if [ -z "${GPU_PYTHON:-}" ]; then
  make_python || exit 1
  GPU_PYTHON=$venv/bin/python
fi
say "$("$GPU_PYTHON" --version), ready after $SECONDS s"

timeout --kill-after 5 "$tests_s" "$GPU_PYTHON" -m pytest -s tests/gpu --timeout 60 2>&1 |
  tee "$out/pytest.log"
tests=${PIPESTATUS[0]}
say "pytest ended with $tests after $SECONDS s"

PYTHONPATH=$PWD/tests "$GPU_PYTHON" -m gpu.measure --out "$out" \
  --seconds $((all_s - SECONDS)) "$@"
experiments=$?
say "experiments ended with $experiments after $SECONDS s; see $out/report.md"
[ "$tests" = 0 ] && [ "$experiments" = 0 ]
