"""What Triton says of itself: the time that each model took, the sizes of its batches, and how it is configured.

Triton counts sums since its start; two readings and their difference tell about the time between. So nobody else may
use the server meanwhile. Of a model that answers later than it hands back Triton's request, as under the CPU presets,
Triton knows no times; there are none here, either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from google.protobuf.json_format import MessageToDict
from tritonclient import grpc, http

ENSEMBLE = "sparseinst"
ANSWERS_LATER = "longest_wait_ms"  # a parameter of models that queue requests themselves, and answer from threads


class ServerFactsError(RuntimeError):
    """The server is not one whose figures would mean anything; the message says why."""


@dataclass(frozen=True)
class Stage:
    """What Triton spent in one model, summed over requests, in milliseconds.

    Attributes:
        requests: requests that succeeded.
        total: from entering the model's queue to the answer; of an ensemble, all its stages and the way between them.
        queue: waiting for a free instance and for the batch to form.
        compute: inside the model, copies in and out included; of an ensemble, all its stages together. Requests that
            run in one batch count its time once each.
        batches: how many batches of each size ran.
    """

    requests: int = 0
    total: float = 0
    queue: float = 0
    compute: float = 0
    batches: Mapping[int, int] = field(default_factory=dict)

    def since(self, before: Stage) -> Stage:
        """What was added since an earlier reading of the same counters."""
        batches = {size: count - before.batches.get(size, 0) for size, count in self.batches.items()}
        return Stage(
            self.requests - before.requests,
            self.total - before.total,
            self.queue - before.queue,
            self.compute - before.compute,
            {size: count for size, count in sorted(batches.items()) if count},
        )

    @property
    def mean_batch(self) -> float:
        """Pictures in a batch, on average over batches; 0 where none ran."""
        batches = sum(self.batches.values())
        return sum(size * count for size, count in self.batches.items()) / batches if batches else 0.0


def read_stages(url: str) -> dict[str, Stage]:
    """Triton's counters of every model that has answered so far and whose time they tell, by model name.

    Raises:
        tritonclient.utils.InferenceServerException: no server answers at the URL.
    """
    with _client(url) as client:
        answer = _plain(client.get_inference_statistics())
        models = {model["name"]: model for model in answer.get("model_stats", [])}
        told = [name for name in models if ANSWERS_LATER not in _config(client, name).get("parameters", {})]
    return {name: _stage(models[name]) for name in told}


def difference(before: Mapping[str, Stage], after: Mapping[str, Stage]) -> dict[str, Stage]:
    """What each model did between two readings; those that did nothing are left out."""
    stages = {name: stage.since(before.get(name, Stage())) for name, stage in after.items()}
    return {name: stage for name, stage in sorted(stages.items()) if stage.requests}


def read_facts(url: str) -> dict[str, str]:
    """Name and version of the server, and how it runs the network: engine, instances, batching, queue.

    Raises:
        ServerFactsError: a response cache is on. It would answer pictures that were sent before without any work.
        tritonclient.utils.InferenceServerException: no server answers, or it does not serve the ensemble.
    """
    with _client(url) as client:
        server = _plain(client.get_server_metadata())
        ensemble = _config(client, ENSEMBLE)
        steps = [step["model_name"] for step in ensemble.get("ensemble_scheduling", {}).get("step", [])]
        models = {name: _config(client, name) for name in (ENSEMBLE, *steps)}
    cached = [name for name, config in models.items() if config.get("response_cache", {}).get("enable")]
    if cached:
        raise ServerFactsError(
            f"the response cache of {', '.join(cached)} is on, so answers would come from memory; "
            "set `response_cache { enable: false }` in config.pbtxt and load the model again"
        )
    facts = {"server": f"{server['name']} {server['version']}"}
    return facts | {name: _describe(config) for name, config in models.items() if name != ENSEMBLE or not steps}


def _describe(config: Mapping[str, Any]) -> str:
    """Engine, instances, batching and queue of one model."""
    parameters = {name: value.get("string_value", "") for name, value in config.get("parameters", {}).items()}
    words = [config.get("backend") or config.get("platform") or "unknown backend"]
    words += [
        f"{name} {parameters[name]}" for name in ("graph", "streams", "precision", ANSWERS_LATER) if name in parameters
    ]
    instances = [
        f"{int(group.get('count', 1))} x {group.get('kind', 'KIND_AUTO').removeprefix('KIND_')}"
        for group in config.get("instance_group", [])
    ]
    batching = config.get("dynamic_batching")
    words += [f"instances {' + '.join(instances)}"] if instances else []
    words.append(f"at most {config.get('max_batch_size', 0)} in a batch")
    if batching is None:
        words.append("no dynamic batching")
    else:
        sizes = batching.get("preferred_batch_size")
        words.append(f"dynamic batching{f' of preferred sizes {sizes}' if sizes else ''}")
        if limit := batching.get("default_queue_policy", {}).get("max_queue_size"):
            words.append(f"queue of {limit}")
    return ", ".join(words)


def _client(url: str) -> Any:
    address = urlsplit(url)
    module = grpc if address.scheme == "grpc" else http
    return module.InferenceServerClient(address.netloc)


def _config(client: Any, name: str) -> dict[str, Any]:
    answer = _plain(client.get_model_config(name))
    return answer.get("config", answer)  # gRPC wraps it


def _plain(answer: Any) -> dict[str, Any]:
    """An answer as HTTP gives it: gRPC's messages become dictionaries, in which 64-bit integers are strings."""
    if isinstance(answer, dict):
        return answer
    return MessageToDict(answer, preserving_proto_field_name=True)


def _stage(model: Mapping[str, Any]) -> Stage:
    counters = model.get("inference_stats", {})

    def milliseconds(*names: str) -> float:
        return sum(int(counters.get(name, {}).get("ns", 0)) for name in names) / 1e6

    return Stage(
        requests=int(counters.get("success", {}).get("count", 0)),
        total=milliseconds("success"),
        queue=milliseconds("queue"),
        compute=milliseconds("compute_input", "compute_infer", "compute_output"),
        batches={
            int(batch["batch_size"]): int(batch.get("compute_infer", {}).get("count", 0))
            for batch in model.get("batch_stats", [])
        },
    )
