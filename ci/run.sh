#!/usr/bin/env bash
# Everything a change must pass, from a clean checkout: both environments, all checks, all tests, the site.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CI=true
# Docs before tests, which read the site in a browser.
exec make --no-print-directory lint docs test check-deploy </dev/null
