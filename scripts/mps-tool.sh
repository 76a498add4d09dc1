#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Unpacks NVIDIA's nvidia-cuda-mps-control of three drivers into $MPS_TOOL_DIR/<version>/, for tests.
# The program is NVIDIA's and not free: nothing of it is installed, changed, committed or given out.
# It comes from the Debian mirror that this machine uses. Without one this says so and ends well:
# the tests that need the program then skip.
set -euo pipefail
cd "$(dirname "$0")/.."
package=nvidia-cuda-mps
wanted="bookworm=535.261.03-1 trixie=550.163.01-2 experimental=555.58.02-4"

none() {
  echo "no MPS control tool: $1; its tests skip"
  exit 0
}

mkdir -p "$MPS_TOOL_DIR"
out=$(cd "$MPS_TOOL_DIR" && pwd)
if cmp -s - "$out/fetched" <<<"$wanted"; then exit 0; fi
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || none "this machine has no apt"
key_ring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r "$key_ring" ] || none "this machine does not have the keys of Debian"
# shellcheck disable=SC2016  # the words in brackets are for apt
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 '/debian/$') ||
  none "this machine's apt knows no Debian mirror"

apt_dir=$(mktemp -d)
trap 'rm -rf "$apt_dir"' EXIT
mkdir -p "$apt_dir"/{lists,cache,debs}/partial
for entry in $wanted; do
  echo "deb [signed-by=$key_ring] $mirror ${entry%%=*} non-free"
done >"$apt_dir/sources.list"
options=(
  -o "Dir::Etc::SourceList=$apt_dir/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o "Dir::State::Lists=$apt_dir/lists" -o "Dir::Cache=$apt_dir/cache"
  -o APT::Sandbox::User= -o Acquire::Languages=none -o Acquire::Retries=1 -o Acquire::http::Timeout=30
)
# A suite that cannot be had leaves the others.
apt-get "${options[@]}" -qq update || echo "not all of Debian's lists could be had"

missing=
for entry in $wanted; do
  suite=${entry%%=*} version=${entry#*=}
  rm -f "$apt_dir"/debs/*.deb
  (cd "$apt_dir/debs" && { apt-get "${options[@]}" -qq download "$package=$version" ||
    apt-get "${options[@]}" -qq download "$package/$suite"; }) 2>"$apt_dir/said" || true
  deb=$(find "$apt_dir/debs" -name '*.deb')
  if [ -z "$deb" ]; then
    missing=yes
    echo "no MPS control tool of $suite ($(tail -n 1 "$apt_dir/said")): its tests skip"
    continue
  fi
  version=$(dpkg-deb -f "$deb" Version)
  rm -rf "${out:?}/${version%-*}"
  dpkg-deb -x "$deb" "$out/${version%-*}"
  echo "MPS control tool ${version%-*} is in $MPS_TOOL_DIR, for tests alone: its licence is in usr/share/doc there"
done
[ -n "$missing" ] || echo "$wanted" >"$out/fetched"
