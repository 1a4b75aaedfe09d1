#!/usr/bin/env bash
# Check what deploy/ holds, without a cluster: charts and manifests against Kubernetes' schemas and checkov's rules, alerts
# and dashboard, Dockerfiles. Every check runs even when an earlier one fails; any failure fails the whole.
# ci/install_deploy_tools.sh brings the tools. What was rendered stays in build/deploy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/build/tools/deploy/python/bin:$PATH:$PWD/build/tools/deploy/bin"
chart=deploy/helm/sparseinst
rendered=build/deploy
kubernetes=(1.30 1.31 1.32 1.33 1.34 1.35 1.36 1.37)
# Kinds of others, whose schemas do not come with Kubernetes.
foreign='PrometheusRule|ServiceMonitor|ScaledObject|HTTPRoute|GRPCRoute|InferenceService|ServingRuntime|PyTorchJob'
failed=()

check() { # name, command...
  local name=$1
  shift
  echo "--- $name"
  "$@" || failed+=("$name")
}

render() { # values
  local name
  name=$(basename "$1" .yaml)
  helm lint --strict --quiet "$chart" --values "$1" 2> >(warnings) \
    && helm template release "$chart" --namespace serving --values "$1" >"$rendered/$name.yaml" 2> >(warnings)
}

# Rules and dashboard are links out of the chart, which helm says each time.
warnings() { grep -v "found symbolic link" >&2 || true; }

# Each file against one version of Kubernetes. A kind without a schema is only passed over if it is known as a foreign one.
validate() { # version, files...
  local said status=0
  said=$(kubernetes-validate --strict --kubernetes-version "$@" 2>&1) || status=$?
  if ((status)) || grep -E '^(ERROR|FAIL)' <<<"$said" || grep "Couldn't find schema" <<<"$said" | grep -vE "kind ($foreign) "; then
    grep -vE '^(INFO|WARN)' <<<"$said" || true
    return 1
  fi
  echo "$(grep -c '^INFO .* passed ' <<<"$said") objects pass"
}

for tool in helm promtool kubernetes-validate checkov yamllint hadolint; do
  command -v $tool >/dev/null || { echo "check_deploy: no $tool; run ci/install_deploy_tools.sh" >&2; exit 1; }
done
rm -rf "$rendered"
mkdir -p "$rendered"
for values in "$chart"/presets/*.yaml "$chart"/ci/*.yaml; do
  check "helm lint, template: ${values#"$chart"/}" render "$values"
done
mapfile -t manifests < <(find deploy/kubernetes deploy/kserve -name '*.yaml' ! -name '*values*' | sort)
for version in "${kubernetes[@]}"; do
  check "kubernetes-validate $version" validate "$version" "$rendered"/*.yaml "${manifests[@]}"
done
mapfile -t files < <(printf -- '--file\n%s\n' "$rendered"/*.yaml "${manifests[@]}")
check "checkov" checkov --config-file deploy/checkov.yaml --framework kubernetes "${files[@]}"
mapfile -t written < <(git ls-files 'deploy/*.yaml' 'deploy/*.yml' | grep -v "^$chart/templates/")
check "yamllint" yamllint --strict --config-file deploy/yamllint.yaml "${written[@]}"
# helm's own style is nobody's to change; what counts is that nothing stands there twice.
check "yamllint: rendered" yamllint --strict --config-data '{rules: {key-duplicates: enable, anchors: enable}}' "$rendered"
check "promtool: rules" promtool check rules deploy/prometheus/rules.yaml
check "promtool: tests of rules" promtool test rules deploy/prometheus/*test*.yaml
mapfile -t dockerfiles < <(git ls-files 'deploy/docker/*Dockerfile*')
check "hadolint" hadolint "${dockerfiles[@]}"
check "dashboard" .venv/bin/python ci/check_dashboard.py
check "properties; what a real server exports and does" ci/test.sh --quiet tests/deploy tests/server/test_helm.py tests/server/test_metrics.py

if ((${#failed[@]})); then
  printf 'check_deploy: failed: %s\n' "${failed[*]}" >&2
  exit 1
fi
echo "check_deploy: clean"
