"""The model card: figures come from files, judgements from notes, and files of different models do not mix."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from sparseinst_export.card import CardError, Sources, model_card
from sparseinst_export.cli import main
from sparseinst_runtime.checksums import sha256
from sparseinst_runtime.contract import Contract

SMALL = Contract(classes=("cat", "dog|wolf"), category_ids=(1, 2), input_size=(64, 96), max_instances=5, name="small")


@pytest.fixture
def contract(tmp_path) -> Path:
    path = tmp_path / "contract.json"
    path.write_text(SMALL.to_json())
    return path


@pytest.fixture
def weights(tmp_path) -> Path:
    """1.5 million parameters, with what a training could write beside contract and network."""
    header = {
        "contract": json.loads(SMALL.to_json()),
        "network": {"backbone": "tiny", "decoder": {"groups": 4}},
        "training": {"recipe": "compact", "epochs": 72, "phases": [{"size": 320}], "lr": 6e-4},
    }
    tensors = {"a.weight": np.zeros((1500, 1000), np.float16), "a.running_mean": np.zeros(1_000_000, np.float32)}
    save_file(tensors, tmp_path / "model.safetensors", {"sparseinst": json.dumps(header)})
    return tmp_path / "model.safetensors"


def report(**mask: float | None) -> dict:
    """What `sparseinst evaluate --report` writes, as far as a card reads it."""
    figures = dict.fromkeys(("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100"), 0.25) | mask
    row = {"instances": 3, "ap": 0.125, "ap50": 0.5, "ap75": None, "ar100": 0.75}
    return {
        "subject": {"annotations": "val.json", "pictures": 9, "results": 4},
        "mask": figures,
        "classes": [row | {"name": name} for name in SMALL.classes],
    }


def write(path: Path, content: dict) -> Path:
    path.write_text(json.dumps(content))
    return path


def verification(weights_sha256: str) -> dict:
    instances = {"instances": 7, "label_agreement": 1.0, "iou_min": 0.875, "iou_median": None}
    row = {"engine": "openvino", "against": "PyTorch", "ap": 0.5, "ap_difference": -0.001, "failures": []}
    named = {"weights": {"name": "w", "sha256": weights_sha256}, "annotations": {"name": "val.json", "sha256": "0"}}
    named["graph"] = {"name": "model.onnx", "sha256": "f" * 64}
    return {
        "holds": True,
        "failures": [],
        "pictures": 9,
        "reference": {"ap": 0.501},
        "comparisons": [row | {"instances": instances}],
        "subject": {"files": named},
    }


def sections_of(card: str) -> dict[str, str]:
    _, *rest = re.split(r"^## (.+)$", card, flags=re.MULTILINE)
    return dict(zip(rest[::2], rest[1::2], strict=True))


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_bundled_card_is_what_the_command_writes(repo_root, bundled_model, tmp_path):
    out = tmp_path / "card.md"
    subprocess.run([repo_root / "ci" / "card.sh", out], check=True, capture_output=True)
    assert out.read_text() == (bundled_model / "README.md").read_text()


def test_the_bundled_card_is_about_the_files_beside_it(bundled_model):
    named = dict(re.findall(r"^\| `(.+)` \| `(.{64})` \|$", (bundled_model / "README.md").read_text(), re.MULTILINE))
    assert named.keys() == {"model.safetensors", "model.onnx", "model.int8.onnx", "contract.json"}
    assert named == {name: sha256(bundled_model / name) for name in named}


def test_a_contract_alone_makes_a_card(contract):
    card = model_card(Sources(contract))
    assert sections_of(card).keys() == {"Model", "Files"}
    for text in ("cat, dog\\|wolf", "`image` UINT8 [B, 64, 96, 3]", "`masks` UINT8 [B, 5, 16, 24]", "64 x 96 pixels"):
        assert text in card
    assert front_matter(card)["pipeline_tag"] == "image-segmentation"
    assert "model-index" not in front_matter(card)


def test_figures_are_those_of_the_reports(contract, tmp_path):
    paths = {
        "val": write(tmp_path / "val.json", report(ap=0.33349, ap_small=None)),
        "test": write(tmp_path / "test.json", report()),
    }
    card = model_card(Sources(contract, evaluations=paths))
    assert "| val | 9 | 0.333 | 0.250 | 0.250 | - | 0.250 | 0.250 | 0.250 |" in card
    assert "| test | 9 | 0.250 |" in card
    assert card.count("| dog\\|wolf | 3 | 0.125 | 0.500 | - | 0.750 |") == 2
    first, second = front_matter(card)["model-index"][0]["results"]
    assert (first["dataset"]["name"], second["dataset"]["name"]) == ("val", "test")
    assert {metric["type"]: metric["value"] for metric in first["metrics"]} == {
        "ap": 0.3335,
        "ap50": 0.25,
        "ap75": 0.25,
    }


def test_weights_tell_architecture_size_and_training(contract, weights):
    found = sections_of(model_card(Sources(contract, weights=weights)))
    assert "| parameters | 1.5 M; 7.0 MB" in found["Model"]
    assert "| decoder.groups | 4 |" in found["Model"]
    assert "| training.recipe | compact |\n| training.epochs | 72 |\n| training.phases | 1 entry |" in found["Training"]
    assert f"| `model.safetensors` | `{sha256(weights)}` |" in found["Files"]


def test_engines_speed_and_quantisation_have_their_sections(contract, weights, tmp_path):
    rows = [{"height": 64, "width": 96, "batch_size": 1, "total": 12.345, "pictures_per_second": 81.0, "instances": 3}]
    speed = {"machine": {"processor": "Abacus"}, "setting": {"precision": "fp32"}, "rows": rows}
    measure = {"ap": 0.51, "agreement": 0.97}
    groups = [
        {"name": "encoder", "layers": 2, "share": 0.75, "quantised": True, "alone": measure},
        {"name": "decoder", "layers": 1, "share": 0.25, "quantised": False, "alone": {"ap": None, "agreement": 0.5}},
    ]
    settings = {"precision": "int8", "target": "cpu", "calibration_pictures": 16, "search_pictures": 9}
    quantised = {"complete": True, "settings": settings, "groups": groups, "graph_sha256": "a" * 64, "inputs": {}}
    quantised |= {"float": measure, "all_quantised": measure, "result": measure, "measured": {"x": 1}}
    sources = Sources(
        contract,
        weights=weights,
        verification=write(tmp_path / "verify.json", verification(sha256(weights))),
        benchmarks={"laptop": write(tmp_path / "speed.json", speed)},
        quantisation=write(tmp_path / "model.int8.json", quantised),
        engine=write(tmp_path / "model.plan.json", {"tensorrt": "10.3", "gpu": {"name": "L4"}, "tf32": False}),
    )
    found = sections_of(model_card(sources))
    agreement = found["Agreement of the engines"]
    assert "9 pictures of val.json; PyTorch: mask AP 0.5010" in agreement
    assert "| openvino | PyTorch | yes | 0.5000 | -0.0010 | 7 | 1.0000 | 0.8750 | - |" in agreement
    assert f"| `model.onnx` | `{'f' * 64}` |" in found["Files"]
    assert "### laptop" in found["Speed"]
    assert "| machine.processor | Abacus |" in found["Speed"]
    assert "| 64 | 96 | 1 | 12.35 | 81 |" in found["Speed"]
    assert "| precision | int8 for cpu, 75.0% of the convolutions' multiplications |" in found["Quantisation"]
    assert "| encoder | 75.0% | 0.5100 | 0.9700 | int8 |" in found["Quantisation"]
    assert "| decoder | 25.0% | - | 0.5000 | float |" in found["Quantisation"]
    assert f"| `model.int8.onnx` | `{'a' * 64}` |" in found["Files"]
    assert "| gpu.name | L4 |\n| tf32 | no |" in found["Engine"]


def test_notes_go_to_their_places_word_by_word(contract, tmp_path):
    notes = tmp_path / "notes.md"
    notes.write_text(
        "---\nlicense: mit\ntags: [cats]\n---\nOpening words.\n\n## Limits\n\nNot at night.\n\n## Thanks\n\nTo all.\n\n"
        "## Model\n\nBy hand.\n\n## Uses\n\nCounting.\n"
    )
    card = model_card(Sources(contract, notes=notes))
    found = sections_of(card)
    assert list(found) == ["Uses", "Model", "Files", "Limits", "Thanks"]
    assert found["Limits"].strip() == "Not at night."
    assert found["Model"].strip().endswith("By hand.")
    assert "Opening words.\n\n## Uses" in card
    assert front_matter(card)["license"] == "mit"
    assert front_matter(card)["tags"] == ["cats"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("## Limits\n\none\n\n## Limits\n\ntwo\n", "has the section 'Limits' twice"),
        ("---\na: [1\n---\n", r"front matter of notes\.md is no YAML"),
        ("---\n- a\n---\n", "holds a list; wanted fields"),
    ],
)
def test_notes_that_cannot_be_placed_are_refused(contract, tmp_path, text, words):
    (tmp_path / "notes.md").write_text(text)
    with pytest.raises(CardError, match=words):
        model_card(Sources(contract, notes=tmp_path / "notes.md"))


def test_files_of_different_models_do_not_mix(contract, weights, tmp_path, other):
    (tmp_path / "other.json").write_text(other.to_json())
    with pytest.raises(
        CardError, match="not of one model: their contracts differ in category_ids, classes, input_size"
    ):
        model_card(Sources(tmp_path / "other.json", weights=weights))
    with pytest.raises(CardError, match=r"val and the contract do not have the same classes \(not in both: "):
        model_card(Sources(tmp_path / "other.json", evaluations={"val": write(tmp_path / "val.json", report())}))
    foreign = write(tmp_path / "verify.json", verification("0" * 64))
    with pytest.raises(CardError, match=r"verify\.json is about other weights \(SHA-256 00000000"):
        model_card(Sources(contract, weights=weights, verification=foreign))
    plan = write(tmp_path / "model.plan.json", {"weights_sha256": "1" * 64})
    with pytest.raises(CardError, match=r"model\.plan\.json is about other weights \(SHA-256 11111111"):
        model_card(Sources(contract, weights=weights, engine=plan))


def test_a_file_that_is_no_such_report_is_named(contract, tmp_path, capsys):
    wrong = write(tmp_path / "wrong.json", {"mask": {}})
    out = tmp_path / "card.md"
    where = ["card", "--contract", str(contract), "--out", str(out)]
    assert main([*where, "--evaluation", f"val={wrong}"]) == 1
    assert "wrong.json has no subject, classes; it is not the report that is wanted here" in capsys.readouterr().err
    assert main([*where, "--weights", str(contract)]) == 1
    assert "contract.json is no readable safetensors file" in capsys.readouterr().err
    assert not out.exists()
    assert main([*where, "--evaluation", str(write(tmp_path / "val.json", report()))]) == 0
    assert "| val | 9 |" in out.read_text(), "the file's name names it"
