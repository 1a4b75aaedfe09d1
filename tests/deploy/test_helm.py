"""deploy/helm/sparseinst as helm renders it: what every pod promises, and what the chart refuses.

`make check-deploy` brings helm and holds the same objects against Kubernetes' own schemas.
"""

from __future__ import annotations

import json
import re
import shutil

import pytest
import yaml
from chart import (
    CHART,
    EVERYTHING,
    VALUES,
    containers,
    deployment,
    flags,
    helm,
    needs_helm,
    objects,
    pods,
    render,
    triton,
)

from sparseinst_export.presets import PRESETS

GPU = [path for path in VALUES if path.stem != "dev-cpu"]

pytestmark = needs_helm


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_no_container_has_rights(values):
    documents = render("--values", values)
    assert len(list(containers(documents))) >= 3
    for container in containers(documents):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["limits"]) & set(container["resources"]["requests"])
    for pod in pods(documents):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["spec"]["automountServiceAccountToken"] is False
        kinds = {kind for volume in pod["spec"]["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}  # none reaches the node


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_secrets_are_files_never_variables(values):
    for container in containers(render("--values", values)):
        assert "envFrom" not in container
        assert all("valueFrom" not in variable for variable in container.get("env", []))
        named = [
            variable["name"]
            for variable in container.get("env", [])
            if re.search("(?i)secret|password|token|_key$", variable["name"])
        ]
        assert not named


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_every_probe_sends_a_picture_and_has_the_time_for_it(values):
    script = (CHART / "files" / "probe.py").read_text()
    longest = sum(float(seconds) for seconds in re.findall(r"^(?:PATIENCE|PROGRESS) = ([\d.]+)", script, re.MULTILINE))
    assert longest > 0
    for pod in pods(objects("Deployment", "--values", values)):
        server = triton(pod)
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert server[kind]["exec"]["command"][:2] == ["python3", "/scripts/probe.py"]
            assert server[kind]["timeoutSeconds"] > longest
        ready, alive = server["readinessProbe"], server["livenessProbe"]
        patience = [probe["periodSeconds"] * probe["failureThreshold"] for probe in (ready, alive)]
        assert patience[0] < patience[1], "a pod must be out of service before it is restarted"


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_a_pod_may_finish_what_it_began(values):
    for pod in pods(objects("Deployment", "--values", values)):
        server = triton(pod)
        drain = server["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["spec"]["terminationGracePeriodSeconds"] > drain + int(flags(server)["exit-timeout-secs"])


def test_no_pod_goes_before_its_successor_serves():
    assert deployment()["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


@pytest.mark.parametrize("values", GPU, ids=lambda path: path.stem)
def test_the_plan_is_built_with_the_gpu_and_the_image_that_serve(values):
    for pod in pods(objects("Deployment", "--values", values)):
        builder, server = pod["spec"]["initContainers"][-1], triton(pod)
        assert builder["image"] == server["image"]
        (resource,) = {name for name in server["resources"]["limits"] if name.startswith("nvidia.com/")}
        for container in (builder, server):
            for kind in ("requests", "limits"):
                assert container["resources"][kind][resource] == 1
        assert any(mount["mountPath"] == "/engines" for mount in builder["volumeMounts"])


def test_requests_and_limits_are_those_of_the_values():
    given = yaml.safe_load((CHART / "values.yaml").read_text())["resources"]
    for kind in ("requests", "limits"):
        got = triton(deployment()["spec"]["template"])["resources"][kind]
        assert got == given[kind] | {"nvidia.com/gpu": 1}


def test_a_cpu_pod_asks_for_no_gpu():
    documents = render("--values", CHART / "presets" / "dev-cpu.yaml")
    assert "nvidia" not in json.dumps(documents)


SCHEMA_REFUSES = {
    "replicas=0": "at '/replicas': minimum: got 0, want 1",
    "presett=cpu": "additional properties 'presett' not allowed",
    "preset=gpu": "at '/preset': value must be one of 'tensorrt'",
    "image.digest=latest": "'latest' does not match pattern",
    "model.objectStore.uri=/models": "'/models' does not match pattern",
    "sharedMemory=lots": "'lots' does not match pattern",
    "canary.weight=101": "at '/canary/weight': maximum: got 101, want 100",
    "securityContext.runAsUser=0": "at '/securityContext/runAsUser': minimum: got 0, want 1",
    "server.extraArgs={rm}": "'rm' does not match pattern",
}


def test_values_that_the_schema_does_not_know_are_refused_in_words():
    ran = helm(*(word for setting in SCHEMA_REFUSES for word in ("--set", setting)))
    assert ran.returncode != 0
    assert not {setting for setting, words in SCHEMA_REFUSES.items() if words not in ran.stderr}, ran.stderr


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("terminationGracePeriodSeconds=30", "is 30; wanted at least 50: drainSeconds + server.exitTimeoutSeconds + 5"),
        ("gpu.enabled=false", "preset tensorrt needs a GPU"),
        ("progressDeadlineSeconds=600", "wanted more than engine.timeoutSeconds (1800)"),
        ("model.source=pvc", "wanted model.pvc.claimName"),
        ("model.source=objectStore", "wanted model.objectStore.uri"),
        ("rollout.maxSurge=0", "no roll-out could ever begin"),
        ("autoscaling.minReplicas=9", "autoscaling.minReplicas is 9; wanted at most maxReplicas (8)"),
        ("ingress.enabled=true", "pictures do not travel unencrypted"),
        ("gateway.enabled=true", "wanted gateway.name"),
        ("canary.enabled=true", "what is it to try?"),
    ],
)
def test_values_that_do_not_go_together_are_refused_in_words(setting, words):
    ran = helm("--set", setting)
    assert ran.returncode != 0
    assert words in ran.stderr


def test_scaling_by_nothing_is_refused():
    ran = helm("--set", "autoscaling.kind=hpa,autoscaling.queueMilliseconds=0,autoscaling.gpuPercent=0")
    assert "wanted something to go by" in ran.stderr


def test_every_value_is_described_and_every_description_has_a_value():
    def compare(value, schema, where):
        assert schema.get("description"), f"values.schema.json does not describe {where}"
        if "properties" in schema:
            assert value.keys() == schema["properties"].keys(), where
            for name in value:
                compare(value[name], schema["properties"][name], f"{where}.{name}")

    schema = json.loads((CHART / "values.schema.json").read_text())
    properties = {name: each for name, each in schema["properties"].items() if name != "global"}  # helm's own
    compare(yaml.safe_load((CHART / "values.yaml").read_text()), {"description": "all", "properties": properties}, "")


def test_the_schema_knows_the_presets_of_a_repository():
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(schema["properties"]["preset"]["enum"]) == set(PRESETS)


def test_what_the_containers_run_rolls_the_pods(tmp_path):
    changed = tmp_path / "sparseinst"
    shutil.copytree(CHART, changed)
    with (changed / "files" / "serve.sh").open("a") as file:
        file.write("# changed\n")
    assert deployment(chart=changed)["spec"]["template"] != deployment()["spec"]["template"]


@pytest.mark.parametrize("setting", ["preset=onnxruntime", "model.version=v2", "server.logVerbose=1", "image.tag=next"])
def test_what_is_served_rolls_the_pods(setting):
    assert deployment("--set", setting)["spec"]["template"] != deployment()["spec"]["template"]


def test_a_new_version_of_the_chart_alone_leaves_the_pods_alone(tmp_path):
    newer = tmp_path / "sparseinst"
    shutil.copytree(CHART, newer)
    about = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(about.replace("\nversion: 0.1.0", "\nversion: 0.2.0"))
    before, after = deployment(), deployment(chart=newer)
    assert after["metadata"]["labels"]["helm.sh/chart"] == "sparseinst-0.2.0"
    assert before["spec"]["template"] == after["spec"]["template"]


def test_what_only_the_traffic_changes_leaves_the_pods_alone():
    one, ten = (deployment("--values", EVERYTHING, "--set", f"canary.weight={weight}") for weight in (1, 10))
    assert one["spec"]["template"] == ten["spec"]["template"]


def test_names_stay_within_kubernetes_limit():
    documents = render("--values", EVERYTHING, release="a-release-whose-name-is-as-long-as-helm-lets-it-be")
    for each in documents:
        suffix = "-0123456789-abcde" if each["kind"] == "Deployment" else ""  # of its pods
        assert len(each["metadata"]["name"] + suffix) <= 63, each["metadata"]["name"]
    labels = [label for pod in pods(documents) for label in pod["metadata"]["labels"].values()]
    assert max(map(len, labels)) <= 63


def test_everything_lands_in_the_release_s_namespace():
    assert {each["metadata"]["namespace"] for each in render("--values", EVERYTHING)} == {"serving"}
