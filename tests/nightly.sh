#!/usr/bin/env bash
# The tests that take minutes: run every night, and by hand before a release.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" -m pytest -m slow -o addopts="-q --doctest-modules --strict-markers" "$@"
