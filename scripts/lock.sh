#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
# Pins requirements again from pyproject.toml: packages, versions and hashes, nothing else.
# Needs `uv` on PATH, which resolves for all supported Pythons at once.
set -euo pipefail
cd "$(dirname "$0")/.."
common=(--universal --python-version 3.10 --generate-hashes --no-emit-index-url
        --no-emit-find-links --no-annotate --no-header --quiet "$@")
export UV_FIND_LINKS=''
uv pip compile "${common[@]}" pyproject.toml -o requirements/run.txt
uv pip compile "${common[@]}" pyproject.toml --group dev -o requirements/dev.txt
uv pip compile "${common[@]}" --group pyproject.toml:audit -o requirements/audit.txt
