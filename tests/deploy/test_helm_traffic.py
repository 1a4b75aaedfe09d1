"""deploy/helm/sparseinst as helm renders it: who reaches which pod, by what it grows, and what watches it."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml
from chart import (
    CHART,
    EVERYTHING,
    PROMTOOL,
    ROOT,
    deployment,
    flags,
    needs_helm,
    needs_promtool,
    objects,
    only,
    pods,
    render,
    track_of,
    triton,
)

KEDA = CHART / "ci" / "claim-keda.yaml"
ADAPTER = ROOT / "deploy" / "kubernetes" / "prometheus-adapter-values.yaml"

pytestmark = needs_helm


def reached(service, **by):
    """The tracks whose pods a Service sends requests to."""
    selector = service["spec"]["selector"].items()
    return {
        track_of(each)
        for each in objects("Deployment", "--values", by["values"])
        if selector <= each["spec"]["template"]["metadata"]["labels"].items()
    }


def services(values):
    return {each["metadata"]["name"]: each for each in objects("Service", "--values", values)}


def test_a_weighted_canary_has_a_service_of_its_own():
    tracks = {name: reached(each, values=EVERYTHING) for name, each in services(EVERYTHING).items()}
    assert tracks == {
        "r-sparseinst": {"stable"},
        "r-sparseinst-grpc": {"stable"},
        "r-sparseinst-canary": {"canary"},
        "r-sparseinst-metrics": {"stable", "canary"},
    }


def test_a_canary_without_weight_shares_the_service():
    tracks = {name: reached(each, values=KEDA) for name, each in services(KEDA).items()}
    assert tracks["r-sparseinst"] == tracks["r-sparseinst-grpc"] == {"stable", "canary"}
    assert "r-sparseinst-canary" not in tracks


def test_a_canary_differs_in_what_it_tries_alone():
    stable, canary = sorted(objects("Deployment", "--values", EVERYTHING), key=track_of, reverse=True)
    served = [each["spec"]["template"]["metadata"]["labels"].pop("sparseinst/model") for each in (stable, canary)]
    assert served == ["v1", "v2"]
    fetch = [each["spec"]["template"]["spec"]["initContainers"].pop(0)["args"][1] for each in (stable, canary)]
    assert fetch == ["store:models/sparseinst/v1", "store:models/sparseinst/v2"]
    assert stable["spec"]["template"]["spec"] == canary["spec"]["template"]["spec"]


def test_the_ingress_lets_in_what_clients_call_and_nothing_else():
    ingresses = objects("Ingress", "--values", EVERYTHING)
    paths = {
        path["path"]: path["pathType"]
        for each in ingresses
        for rule in each["spec"]["rules"]
        for path in rule["http"]["paths"]
    }
    assert paths["/inference.GRPCInferenceService/ModelInfer"] == "Exact"
    assert paths["/v2/models/sparseinst"] == "Prefix"
    prefixes = [path for path, kind in paths.items() if kind == "Prefix"]
    for shut in ("/v2/repository", "/v2/logging", "/v2/trace", "/v2/systemsharedmemory", "/v2/cudasharedmemory"):
        assert shut not in paths
        assert not [prefix for prefix in prefixes if shut.startswith(prefix)]
    assert not [path for path in paths if re.search("Repository|SharedMemory|Trace|Log|Stream", path)]


def test_the_ingress_bounds_what_comes_in():
    for each in objects("Ingress", "--values", EVERYTHING):
        said = {name.rpartition("/")[2]: text for name, text in each["metadata"]["annotations"].items()}
        assert int(said["proxy-body-size"].removesuffix("m")) > 32  # a picture of 32 MiB and its envelope
        assert {"limit-rps", "limit-connections", "ssl-redirect"} <= said.keys()
        assert said["auth-tls-verify-client"] == "on"
        assert each["spec"]["tls"][0]["hosts"] == [each["spec"]["rules"][0]["host"]]
        assert said.get("canary-weight") == ("10" if "canary" in each["metadata"]["name"] else None)


def test_routes_of_a_gateway_share_by_weight():
    for kind, port in (("HTTPRoute", 8000), ("GRPCRoute", 8001)):
        (rule,) = only(kind, "--values", EVERYTHING)["spec"]["rules"]
        assert rule["backendRefs"] == [
            {"name": "r-sparseinst", "port": port, "weight": 90},
            {"name": "r-sparseinst-canary", "port": port, "weight": 10},
        ]


def test_metrics_are_for_prometheus_and_pods_reach_nobody():
    spec = only("NetworkPolicy")["spec"]
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    ports = {port["port"]: rule["from"] for rule in spec["ingress"] for port in rule["ports"]}
    assert ports.keys() == {"http", "grpc", "metrics"}
    assert ports["metrics"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    assert [port["port"] for rule in spec["egress"] for port in rule["ports"]] == [53, 53]
    for pod in pods(objects("Deployment")):
        assert spec["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("values", [EVERYTHING, KEDA], ids=lambda path: path.stem)
def test_an_autoscaler_decides_alone(values):
    assert "replicas" not in deployment("--values", values)["spec"]
    scaled = [
        each["spec"]["scaleTargetRef"]["name"]
        for each in render("--values", values)
        if each["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}
    ]
    assert scaled == ["r-sparseinst"]


def adapter_rules():
    return {rule["name"]["as"]: rule for rule in yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]}


def test_the_adapter_gives_what_the_autoscaler_goes_by():
    metrics = only("HorizontalPodAutoscaler", "--values", EVERYTHING)["spec"]["metrics"]
    assert {each["pods"]["metric"]["name"] for each in metrics} == set(adapter_rules())


def expressions():
    """What the adapter and KEDA ask Prometheus."""
    for name, rule in adapter_rules().items():
        query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod")
        yield (
            name,
            query.replace("<<.LabelMatchers>>", 'namespace="serving",pod=~"r-sparseinst-7d9-a|r-sparseinst-7d9-b"'),
        )
    for trigger in only("ScaledObject", "--values", KEDA)["spec"]["triggers"]:
        if trigger["type"] == "prometheus":
            yield f"keda_{trigger['name']}", trigger["metadata"]["query"]


@needs_promtool
def test_scaling_queries_give_milliseconds_and_per_cent(tmp_path):
    """Two pods with 10 pictures/s each, and a canary that does not count.

    Pictures wait 30 ms in Triton, and in the second pod 60 ms in a Python model besides. The GPUs are at 50% and 100%.
    """
    rules = [{"record": name, "expr": expression} for name, expression in expressions()]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "scaling", "rules": rules}]}))
    series = []
    for pod, wait, python_wait, load in (("7d9-a", 30, None, 0.5), ("7d9-b", 30, 60, 1), ("canary-7d9-a", 999, 999, 0)):
        labels = f'namespace="serving",pod="r-sparseinst-{pod}"'
        for name, model, each_second in (
            ("nv_inference_queue_duration_us", "sparseinst_preprocess", wait * 5000),
            ("nv_inference_queue_duration_us", "sparseinst_network", wait * 5000),
            ("sparseinst_wait_seconds_sum", "sparseinst", python_wait and python_wait * 0.01),
            ("nv_inference_request_success", "sparseinst_network", 10),
            ("nv_inference_request_success", "sparseinst", 10),
        ):
            if each_second is not None:  # a pod without Python queues has no such series
                series.append({"series": f'{name}{{{labels},model="{model}"}}', "values": f"0+{each_second * 15}x20"})
        series.append({"series": f'nv_gpu_utilization{{{labels},gpu_uuid="{pod}"}}', "values": f"{load}+0x20"})
    wanted = {
        "sparseinst_queue_milliseconds": {"r-sparseinst-7d9-a": 30, "r-sparseinst-7d9-b": 90},
        "sparseinst_gpu_percent": {"r-sparseinst-7d9-a": 50, "r-sparseinst-7d9-b": 100},
        "keda_queue": {None: 60},
        "keda_gpu": {None: 75},
    }
    asked = [
        {
            "expr": f"round({name}, 0.001)",
            "eval_time": "5m",
            "exp_samples": [
                {"labels": f'{{pod="{pod}"}}' if pod else "{}", "value": value} for pod, value in samples.items()
            ],
        }
        for name, samples in wanted.items()
    ]
    assert {rule["record"] for rule in rules} == wanted.keys()
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "15s",
        "tests": [{"interval": "15s", "input_series": series, "promql_expr_test": asked}],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    ran = subprocess.run(
        [PROMTOOL, "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_rules_and_dashboard_travel_with_the_chart_and_find_their_quantiles():
    rules = only("PrometheusRule", "--values", EVERYTHING)["spec"]
    assert rules == yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yaml").read_text())
    (dashboard,) = [each for each in objects("ConfigMap", "--values", EVERYTHING) if "sparseinst.json" in each["data"]]
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboard["data"]["sparseinst.json"].strip() == (ROOT / "deploy/grafana/sparseinst.json").read_text().strip()
    assert "nv_inference_request_summary_us" in str(rules)
    assert flags(triton(deployment()["spec"]["template"]))["metrics-config"] == "summary_latencies=true"


def test_prometheus_scrapes_every_pod_whatever_its_state():
    monitor = only("ServiceMonitor", "--values", EVERYTHING)["spec"]
    scraped = [
        each
        for each in objects("Service", "--values", EVERYTHING)
        if monitor["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
    ]
    assert [each["metadata"]["name"] for each in scraped] == ["r-sparseinst-metrics"]
    assert scraped[0]["spec"]["publishNotReadyAddresses"] is True
    ports = {port["name"]: port["containerPort"] for port in triton(deployment()["spec"]["template"])["ports"]}
    assert ports[scraped[0]["spec"]["ports"][0]["targetPort"]] == 8002
