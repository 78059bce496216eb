#!/usr/bin/env bash
# Runs the linter and the type checker, and compares the tables with those that
# the records make. Needs the environment of `scripts/setup.sh interop`.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PROMPT_TUNING_VENV:-.venv}/bin/python"
"$python" -m ruff check
"$python" -m ruff format --check
"$python" -m prompt_tuning tabulate --check &
tables=$!
"$python" -m basedpyright --pythonpath "$python" --level error || status=$?
wait "$tables"
exit "${status:-0}"
