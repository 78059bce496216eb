#!/usr/bin/env bash
# Runs the linter, the type checker, and the check that the tables are what the
# records make. The environment is that of scripts/setup.sh interop.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PROMPT_TUNING_VENV:-.venv}/bin/python"
"$python" -m ruff check
"$python" -m ruff format --check
"$python" -m basedpyright --pythonpath "$python" --level error
"$python" -m prompt_tuning tabulate --check
