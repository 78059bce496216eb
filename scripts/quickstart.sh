#!/usr/bin/env bash
# Sets up, then trains and evaluates a first prompt: see scripts/quickstart.py.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup.sh"
exec "${PROMPT_TUNING_VENV:-$root/.venv}/bin/python" \
  "$root/scripts/quickstart.py" "$@"
