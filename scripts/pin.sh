#!/usr/bin/env bash
# Writes constraints*.txt: exact versions with the hashes of their files, found by
# uv (https://docs.astral.sh/uv). Versions in the files stay as they are;
# --upgrade or --upgrade-package=NAME takes newer ones.
#
#   constraints-build.txt    builds of this project and its dependencies
#   constraints.txt          the project and the server
#   constraints-dev.txt      in addition, the tests and the T5 small
#   constraints-interop.txt  in addition, the tests' references, except torch
#   constraints-plan.txt     in addition, the compilers for TPUs and GPUs
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export UV_CUSTOM_COMPILE_COMMAND="bash scripts/pin.sh"
projects=(pyproject.toml runtime/pyproject.toml)
changes=("$@")

# Usage: pin FILE ARGUMENT...
pin() {
  uv pip compile --quiet --universal --python-version=3.11 --generate-hashes \
    --fork-strategy=fewest --no-annotate "${changes[@]}" --output-file="$@" \
    >/dev/null
}

# Usage: pin_others FILE ARGUMENT... Leaves out packages in the files of `pinned`.
pinned=(constraints.txt)
pin_others() {
  local names
  names="$(sed -nE 's/^([a-z0-9.-]+)==.*/--no-emit-package=\1/p' "${pinned[@]}")"
  # shellcheck disable=SC2086
  pin "$1" "${pinned[@]/#/--constraint=}" $names "${@:2}" "${projects[@]}"
}

# promise has no wheel; editdistance has none for Python 3.13.
pin constraints-build.txt - <<'REQUIREMENTS'
editables
hatchling>=1.27
setuptools
wheel
cython; python_version >= "3.13"
pdm-backend; python_version >= "3.13"
REQUIREMENTS
pin constraints.txt --constraint=constraints-build.txt --extra=serving \
  "${projects[@]}"
pin_others constraints-dev.txt --extra=dev --extra=t5-small
pinned+=(constraints-dev.txt)
pin_others constraints-plan.txt --extra=plan
pin_others constraints-interop.txt --extra=interop --extra=hub \
  --extra=smollm2
# The builds of PyTorch for CPUs and for each CUDA share one version.
file=constraints-interop.txt
awk '/^[a-z]/ { skip = /^(cuda|nvidia|torch|triton)/ } !skip' $file >$file.new
mv $file.new $file
