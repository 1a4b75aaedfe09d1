#!/usr/bin/env bash
# A real Triton on free ports, measured by clients/benchmark.py with the bundled pictures. Arguments go to the benchmark.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ci/repository.sh
# perf_analyzer is there for the scenarios that use it, which are also among the default ones.
case " $* " in
  *" --help "* | *" -h "*) ;;
  *" --scenarios "*) [[ ! " $* " =~ " "(concurrency|rate|search)" " ]] || ci/install_perf_analyzer.sh ;;
  *) ci/install_perf_analyzer.sh ;;
esac
exec .venv-serve/bin/python ci/with_server.py \
  .venv-serve/bin/python clients/benchmark.py assets/scenes/images "$@"
