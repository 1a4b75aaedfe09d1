#!/usr/bin/env bash
# A real Triton on free ports, measured with the bundled pictures. Arguments go to the benchmark.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in
  *" --help "* | *" -h "*) exec .venv-serve/bin/sparseinst-client bench --help ;;
  *" --scenarios "*) [[ ! " $* " =~ " "(concurrency|rate|search)" " ]] || ci/install_perf_analyzer.sh ;;
  *) ci/install_perf_analyzer.sh ;; # all scenarios
esac
ci/repository.sh
exec .venv-serve/bin/python ci/with_server.py \
  .venv-serve/bin/sparseinst-client bench assets/scenes/images "$@"
