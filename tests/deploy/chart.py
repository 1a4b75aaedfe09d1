"""The chart deploy/helm/sparseinst, rendered by helm, for the tests that ask what it promises."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "sparseinst"
PATH = f"{os.environ.get('PATH', '')}:{ROOT / 'build' / 'tools' / 'deploy' / 'bin'}"
HELM = shutil.which("helm", path=PATH)
PROMTOOL = shutil.which("promtool", path=PATH)
VALUES = sorted([*(CHART / "presets").glob("*.yaml"), *(CHART / "ci").glob("*.yaml")])
EVERYTHING = CHART / "ci" / "everything.yaml"

needs_helm = pytest.mark.skipif(HELM is None, reason="no helm; ci/install_deploy_tools.sh brings it")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool; ci/install_deploy_tools.sh brings it")


@functools.cache
def helm(*arguments, chart=CHART, release="r"):
    command = [HELM, "template", release, str(chart), "--namespace", "serving", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def render(*arguments, **options):
    """The objects that helm makes, in its order."""
    ran = helm(*arguments, **options)
    assert ran.returncode == 0, ran.stderr
    return [document for document in yaml.safe_load_all(ran.stdout) if document]


def objects(kind, *arguments, **options):
    return [each for each in render(*arguments, **options) if each["kind"] == kind]


def only(kind, *arguments, **options):
    (found,) = objects(kind, *arguments, **options)
    return found


def deployment(*arguments, **options):
    """The one that serves, not the canary."""
    return next(each for each in objects("Deployment", *arguments, **options) if track_of(each) == "stable")


def track_of(workload):
    return workload["spec"]["selector"]["matchLabels"]["sparseinst/track"]


def pods(documents):
    """Metadata and specification of every pod, of Deployments and by themselves."""
    for each in documents:
        if each["kind"] == "Deployment":
            yield each["spec"]["template"]
        elif each["kind"] == "Pod":
            yield each


def containers(documents):
    for pod in pods(documents):
        yield from pod["spec"].get("initContainers", [])
        yield from pod["spec"]["containers"]


def triton(pod):
    (container,) = pod["spec"]["containers"]
    return container


def flags(container):
    return dict(re.fullmatch(r"--([^=]+)(?:=(.*))?", flag).groups() for flag in container["args"][1:])
