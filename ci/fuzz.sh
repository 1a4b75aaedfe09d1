#!/usr/bin/env bash
# Fuzz what strangers reach: pictures, values of requests, contracts, replies, each guided by coverage, and a real server.
#   ci/fuzz.sh [--runs N] [--requests N] [--seed S]
# RUNS (5000) inputs for each function of tests/fuzz/targets.py, REQUESTS (4000) for the server. The seed is drawn, and
# said, where none is given: with it the same run comes again. Exit status 1 where anything was found.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
runs=5000 requests=4000 seed=$((RANDOM * 32768 + RANDOM))
while (($#)); do
  case $1 in
    --runs) runs=$2 ;;
    --requests) requests=$2 ;;
    --seed) seed=$2 ;;
    *)
      echo "fuzz: unknown option $1; wanted --runs N, --requests N or --seed S" >&2
      exit 2
      ;;
  esac
  shift 2
done
echo "fuzz: seed $seed"
mkdir -p build/fuzz
failed=()

targets=$(.venv/bin/python ci/fuzz_target.py --list 2>build/fuzz/start.log) || {
  echo "fuzz: atheris does not run here, build/fuzz/start.log says why; it wants Linux and Python 3.11 to 3.13" >&2
  exit 1
}
for target in $targets; do
  log=build/fuzz/$target.log
  if .venv/bin/python ci/fuzz_target.py "$target" --runs "$runs" --seed "$seed" >"$log" 2>&1; then
    result="nothing found"
  else
    result="FAILED, all it said is in $log"
    failed+=("$target")
  fi
  done=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  echo "fuzz: $target: ${done:-no} inputs, $result"
done

ci/repository.sh
.venv-serve/bin/python ci/with_server.py .venv/bin/python ci/fuzz_server.py --count "$requests" --seed "$seed" || failed+=(server)
if ((${#failed[@]})); then
  echo "fuzz: failed: ${failed[*]}; again with --seed $seed" >&2
  exit 1
fi
