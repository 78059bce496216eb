#!/usr/bin/env bash
# Runs the linter and the type checker, and checks that the records still make the
# same tables. Needs the environment of `scripts/setup.sh interop`.
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
