#!/usr/bin/env bash
# Sets up the last commit from nothing, once for each Python given, as a stranger would: an empty clone in a folder
# whose name has a space, an empty pip cache, an empty data cache. Then it tries what was set up, and times each step.
#
#   tests/try_setup.sh PYTHON...             for example: python3.11 python3.12 ~/pythons/3.13/bin/python3
#   ALL=1 tests/try_setup.sh PYTHON...       also make paper PROFILE=smoke and make test, half an hour more for each
#   KEEP=1 tests/try_setup.sh PYTHON...      leave the folders, and say where
#   INTO=folder, TORCH_INDEX=URL             where the clones are made; an index of torch's CPU builds (see make help)
#
# Ends with 1 where any of them failed. Some indexes have torch as a build of several GB: 10 GB of disk for each.
set -uo pipefail
[ $# -gt 0 ] || { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 2; }
project=$(cd "$(dirname "$0")/.." && pwd)
into=${INTO:-$(mktemp -d)}
failed=0

step() { # name, command...: timed, its output shown only where it fails
  local name=$1 begun=$SECONDS; shift
  if "$@" >"$log.$name" 2>&1; then
    printf '%-8s %-12s %4d s %4d lines\n' "$version" "$name" $((SECONDS - begun)) "$(wc -l <"$log.$name")"
  else
    printf '%-8s %-12s FAILED after %d s:\n' "$version" "$name" $((SECONDS - begun))
    tail -n 30 "$log.$name"
    failed=1
    return 1
  fi
}

try() {
  bin=$clone/.venv/bin
  step clone git clone --quiet "$project" "$clone" && cd "$clone" &&
  step setup make setup PYTHON="$python" ${TORCH_INDEX:+TORCH_INDEX="$TORCH_INDEX"} &&
  step pip-check "$bin/python" -m pip check &&
  step import "$bin/python" -c "import radiomics, torch, nsclc_radiomics.cli.main" &&
  step sample "$bin/nsclc-radiomics" sample "$place/sample cohort" &&
  step values "$bin/python" -m pytest -q tests/test_features_values.py &&
  { [ -z "${ALL:-}" ] || { step paper make paper PROFILE=smoke && step test make test; }; } &&
  step unchanged git diff --exit-code
}

for python in "$@"; do
  version=$("$python" -c 'import platform; print(platform.python_version())') || { failed=1; continue; }
  place=$into/$version clone="$into/$version/a clone" log=$into/$version/log
  mkdir -p "$place"
  export PIP_CACHE_DIR="$place/pip cache" NSCLC_CACHE="$place/data cache"
  unset PYTHONPATH
  (try; exit $failed) || failed=1
  [ -n "${KEEP:-}" ] && echo "$version is left in $place" || rm -rf "$place"
done
exit $failed
