"""The paper's ablations: every row is a network that learns, runs are shared between tables and never repeated."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch

from sparseinst.ablation import TABLES, Outcome, Row, markdown, run_name
from sparseinst.cli import main
from sparseinst.losses import Counts, Criterion
from sparseinst.network import DecoderConfig, EncoderConfig, NetworkConfig, SparseInst
from sparseinst.recipes import RECIPES, Recipe, get_recipe

FILES = {"annotations": "instances.json", "images": "images"}
ROWS = [(number, row) for number, table in TABLES.items() for row in table.rows]


@pytest.fixture
def base() -> Recipe:
    """The small recipe with a network that builds in milliseconds."""
    decoder = DecoderConfig(classes=2, instances=6, groups=4, channels=16, depth=4, kernel_dim=8)
    return replace(get_recipe("compact_ablation"), network=NetworkConfig("mobilenet_v2", EncoderConfig(16), decoder))


@pytest.mark.parametrize(("number", "row"), ROWS, ids=[f"{number}-{row.label}" for number, row in ROWS])
def test_every_parameter_of_every_row_learns(number: int, row: Row, base: Recipe):
    recipe = row.apply(base)
    torch.manual_seed(0)
    model = SparseInst(recipe.network)
    outputs = model(torch.randn(2, 3, 96, 64))
    targets = [{"labels": torch.tensor([0, 1]), "masks": torch.rand(2, 24, 16)} for _ in range(2)]
    terms = Criterion(recipe.losses)(outputs, targets, Counts.of(targets, 6))
    torch.stack(list(terms.values())).sum().backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    unrewarded = {"decoder.inst_branch.objectness.weight", "decoder.inst_branch.objectness.bias"}
    assert idle == (unrewarded if recipe.losses.objectness == 0 else set())


def test_the_tables_are_about_what_they_say(base):
    for number, parts in {2: {"encoder"}, 3: {"decoder"}, 4: {"decoder"}, 5: {"losses"}, 7: {"decoder"}}.items():
        for row in TABLES[number].rows:
            assert {key.split(".")[0] for key in row.changes} <= parts
    for table in TABLES.values():
        recipes = [row.apply(base) for row in table.rows]
        assert len({json.dumps(asdict(recipe)) for recipe in recipes}) == len(recipes), "two rows of a table are equal"


def test_equal_trainings_have_one_folder_and_different_ones_two(base):
    folders: dict[str, dict] = {}
    for _, row in ROWS:
        recipe = row.apply(base)
        decoder = replace(recipe.network.decoder, rescoring=True)  # training does not see how scores are made
        trained = asdict(replace(recipe, network=replace(recipe.network, decoder=decoder)))
        assert folders.setdefault(run_name(recipe, base), trained) == trained
    assert len({json.dumps(recipe) for recipe in folders.values()}) == len(folders) < len(ROWS)
    assert not any(set(name) & set("/\\ \t\n") for name in folders)


def test_rows_can_be_made_of_every_recipe():
    for name in RECIPES:
        recipe = get_recipe(name)
        assert len({run_name(row.apply(recipe), recipe) for _, row in ROWS}) > len(TABLES)


def test_a_table_shows_the_mean_of_its_seeds_and_their_range():
    one = Outcome("plain", (0.25,), (0.5,), (0.125,), 2_500_000, 1_250_000_000)
    two = replace(one, label="both", ap=(0.25, 0.375))
    lines = markdown(4, [one, two]).splitlines()
    assert lines[0] == "## Table 4: Instance activation maps"
    assert lines[-2:] == [
        "| plain | 25.0 | 50.0 | 12.5 | 2.50 | 1.25 |",
        "| both | 31.2 (25.0 to 37.5) | 50.0 | 12.5 | 2.50 | 1.25 |",
    ]


def test_the_command_writes_tables_and_repeats_nothing(scenes, tmp_path, monkeypatch, base, capsys):
    tiny = replace(base, name="tiny", input_size=64, schedule=replace(base.schedule.stretched(1), batch_size=4))
    tiny = replace(tiny, schedule=replace(tiny.schedule, phases=(replace(tiny.schedule.phases[0], size=64),)))
    monkeypatch.setitem(RECIPES, "tiny", lambda: tiny)
    data = [f"--{val}{name}={scenes}/{file}" for val in ("", "val-") for name, file in FILES.items()]
    command = ["ablation", "--recipe", "tiny", *data, "--out", str(tmp_path), "--device", "cpu", "--workers", "0"]

    assert main([*command, "--tables", "6"]) == 0
    weights = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/last.safetensors")}
    assert len(weights) == 3, "scoring without objectness needs no training of its own"
    assert set(json.loads((tmp_path / "base-seed0" / "ap.json").read_text())) == {"rescored", "class probability"}
    text = (tmp_path / "ablation.md").read_text()
    assert text.count("\n| ") == 1 + len(TABLES[6].rows)
    assert "Recipe `tiny`, 1 epochs of 16 pictures" in text

    assert main([*command, "--tables", "6"]) == 0
    assert weights == {path: path.stat().st_mtime_ns for path in weights}
    assert (tmp_path / "ablation.md").read_text() == text
    assert "from step" not in capsys.readouterr().out.rpartition("table 6")[2]
