#!/usr/bin/env bash
# Sets up, then runs the linter, the type checker and the tests, and checks that
# the tables are what the records make. Arguments go to
# pytest: bash scripts/test.sh -m "not slow" tests/t5
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup.sh" interop
cd "$root"
python="${PROMPT_TUNING_VENV:-$root/.venv}/bin/python"
"$python" -m ruff check
"$python" -m ruff format --check
"$python" -m basedpyright --pythonpath "$python" --level error
"$python" scripts/tabulate.py --check
"$python" -m pytest "$@"
