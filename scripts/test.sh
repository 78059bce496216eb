#!/usr/bin/env bash
# Installs the project, then runs scripts/check.sh and the tests that are not
# slow; with --all, all tests. Other arguments go to pytest:
#
#   bash scripts/test.sh --all tests/models
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
arguments=(-m "not slow" "$@")
if [[ "${1:-}" == --all ]]; then
  arguments=("${@:2}")
fi
bash "$root/scripts/setup.sh" interop
bash "$root/scripts/check.sh"
cd "$root"
if ! command -v chromedriver >/dev/null; then
  echo "There is no browser, so the tests of the server's page are skipped." \
    "Debian: apt-get install chromium chromium-driver"
fi
# One worker runs all tests of a file, which share fixtures.
"${PROMPT_TUNING_VENV:-$root/.venv}/bin/python" -m pytest \
  --numprocesses="${PYTEST_WORKERS:-3}" --dist=loadfile \
  --no-loadscope-reorder "${arguments[@]}"
