#!/usr/bin/env bash
# Installs the project, then trains and evaluates a first prompt. The arguments
# are those of `prompt-tuning quickstart`.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup.sh"
exec "${PROMPT_TUNING_VENV:-$root/.venv}/bin/python" \
  -m prompt_tuning quickstart "$@"
