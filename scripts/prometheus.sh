#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Unpacks Debian's prometheus into build/prometheus, for tests: nothing is installed.
set -euo pipefail

into="${1:-build/prometheus}"
[ -x "$into/usr/bin/promtool" ] && exit 0
mkdir -p "$into"
packed=$(mktemp -d)
trap 'rm -rf "$packed"' EXIT
chmod 755 "$packed"
(cd "$packed" && apt-get -qq download prometheus)
dpkg-deb --extract "$packed"/prometheus_*.deb "$into"
