#!/usr/bin/env bash
# Sets up, then runs the checks of scripts/check.sh and the tests. Arguments go
# to pytest: bash scripts/test.sh -m "not slow" tests/models
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup.sh" interop
bash "$root/scripts/check.sh"
cd "$root"
if ! command -v chromedriver >/dev/null; then
  echo "No browser: the tests of the server's page are skipped." \
    "Debian: apt-get install chromium chromium-driver"
fi
# A file is one worker's: its tests share what they made.
"${PROMPT_TUNING_VENV:-$root/.venv}/bin/python" -m pytest \
  --numprocesses="${PYTEST_WORKERS:-2}" --dist=loadfile \
  --no-loadscope-reorder "$@"
