#!/usr/bin/env bash
# Makes .venv in the repository, with both distributions and the packages for the
# tests and the T5 small, in the versions and with the hashes of constraints*.txt.
# Arguments: "interop" adds torch, transformers and peft, which the tests compare
# with; "plan" adds the compilers for TPUs and GPUs. Does nothing if .venv is up
# to date. PROMPT_TUNING_VENV names another folder.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${PROMPT_TUNING_VENV:-$root/.venv}"
files=("--requirement=$root/constraints.txt"
  "--requirement=$root/constraints-dev.txt")
for extra in "$@"; do
  if [[ "$extra" != interop && "$extra" != plan ]]; then
    echo "Expected interop or plan, got $extra." >&2
    exit 1
  fi
  files+=("--requirement=$root/constraints-$extra.txt")
done

is_supported() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
    2>/dev/null
}

stamp="$(cd "$root" && cat pyproject.toml runtime/pyproject.toml \
  constraints*.txt | cksum) $root dev${*:+ $*}"
# If an environment has no pip, `python -m venv` could not finish it.
if is_supported "$venv/bin/python" &&
  "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  # An environment with more extras will do.
  if [[ "$(cat "$venv/stamp" 2>/dev/null)" == "$stamp"* ]]; then
    exit 0
  fi
elif [[ -n "$(ls -A "$venv" 2>/dev/null)" && ! -e "$venv/pyvenv.cfg" ]]; then
  echo "$venv is not a virtual environment, and not empty: it would be deleted." \
    "Choose another folder for PROMPT_TUNING_VENV." >&2
  exit 1
else
  base=""
  for candidate in python3.11 python3.12 python3.13 python3; do
    if is_supported "$candidate"; then
      base="$candidate"
      break
    fi
  done
  if [[ -z "$base" ]]; then
    echo "Expected Python >= 3.11 and < 3.14 on the PATH, got" \
      "$(python3 --version 2>&1 || true). Install Python 3.11." >&2
    exit 1
  fi
  echo "Making $venv with $("$base" --version)."
  "$base" -m venv --clear "$venv"
fi

rm -f "$venv/stamp"
echo "Installing into $venv: 4 GB${*:+ and, for $*, 1 GB, or more with CUDA}. It takes minutes."
install() {
  "$venv/bin/python" -m pip install --disable-pip-version-check "$@"
}
# pip refuses files without a hash, such as other dependencies of the packages.
install --require-hashes --requirement="$root/constraints-build.txt"
install --require-hashes --no-deps --no-build-isolation "${files[@]}"
install --no-deps --no-build-isolation \
  --editable="$root" --editable="$root/runtime"
if [[ " $* " == *" interop "* ]]; then
  # PyTorch's builds for CPUs and for each CUDA share one version: no hash.
  install torch==2.13.0
fi
echo "$stamp" >"$venv/stamp"
