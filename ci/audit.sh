#!/usr/bin/env bash
# Look up what both environments hold among the known vulnerabilities of PyPI's advisory database, by pip-audit. Reports
# go to build/audit. Arguments go to pip-audit: `ci/audit.sh --vulnerability-service osv` asks another database.
# Exit status: 0 nothing known, 1 vulnerable packages, 3 not audited, because the database could not be asked.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p build/audit
reports=()
for env in .venv .venv-serve; do
  [[ -x $env/bin/python ]] || continue
  packages=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  report=build/audit/${env#.}.json
  rm -f "$report"
  echo "audit: $env"
  # Its exit status does not tell vulnerable packages from a database that is out of reach: the report does.
  .venv/bin/pip-audit --path "$packages" --progress-spinner off --format json --output "$report" "$@" 2>"$report.log" || true
  reports+=("$report")
done
exec .venv/bin/python ci/audit_report.py "${reports[@]}"
