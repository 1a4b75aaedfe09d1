"""The paper's ablations: every row is a network that learns, runs are shared between tables and never repeated."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch

from sparseinst.ablation import TABLES, Outcome, Row, markdown, run_name
from sparseinst.ablation_settings import SettingsError, hold_settings
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


@pytest.fixture
def command(scenes, tmp_path, monkeypatch, base) -> list[str]:
    """Without `--tables`; a training takes seconds."""
    schedule = replace(base.schedule.stretched(1), batch_size=4)
    schedule = replace(schedule, phases=(replace(schedule.phases[0], size=64),))
    tiny = replace(base, name="tiny", input_size=64, schedule=schedule)
    monkeypatch.setitem(RECIPES, "tiny", lambda: tiny)
    monkeypatch.setitem(RECIPES, "larger", lambda: replace(tiny, name="larger", input_size=96))
    data = [f"--{val}{name}={scenes}/{file}" for val in ("", "val-") for name, file in FILES.items()]
    return ["ablation", "--recipe", "tiny", *data, "--out", str(tmp_path), "--device", "cpu", "--workers", "0"]


def test_the_command_writes_tables_and_repeats_nothing(command, scenes, tmp_path, capsys):
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

    moved = shutil.copytree(scenes, tmp_path / "elsewhere")
    assert main([*(word.replace(str(scenes), str(moved)) for word in command), "--tables", "6"]) == 0
    assert weights == {path: path.stat().st_mtime_ns for path in weights}

    fewer = json.loads((scenes / "instances.json").read_text())
    fewer["annotations"].pop()
    (tmp_path / "fewer.json").write_text(json.dumps(fewer))
    shutil.copy(moved / "images" / "scene_00.jpg", moved / "images" / "scene_01.jpg")
    (tmp_path / "weights.pt").write_bytes(b"never read, only compared")
    for change, words in (
        (["--epochs", "3"], "recipe.schedule.phases.0.epochs 1 -> 3;"),
        (["--recipe", "larger"], "recipe.name tiny -> larger, recipe.input_size 64 -> 96;"),
        (["--annotations", str(tmp_path / "fewer.json")], "settings: --annotations SHA-256 "),
        (["--val-annotations", str(tmp_path / "fewer.json")], "settings: --val-annotations SHA-256 "),
        (["--images", str(moved / "images")], "settings: --images 16 pictures of "),
        (["--val-images", str(moved / "images")], "settings: --val-images 16 pictures of "),
        (["--class-agnostic"], "settings: --class-agnostic False -> True;"),
        (["--backbone-weights", str(tmp_path / "weights.pt")], "settings: --backbone-weights none -> SHA-256 "),
    ):
        assert main([*command, *change, "--tables", "2", "6"]) == 1, change
        error = capsys.readouterr().err
        assert f"{tmp_path} holds runs, base-seed0 first, that were made with other settings: " in error
        assert words in error
        assert error.endswith("; go on with what they were made with, or choose another --out\n")
    assert (tmp_path / "ablation.md").read_text() == text
    assert len(list(tmp_path.glob("*-seed*"))) == 3


def test_settings_bind_from_the_first_run_on(tmp_path):
    hold_settings(tmp_path, {"--images": "some", "sizes": [1, 2]})
    hold_settings(tmp_path, {"--images": "others", "sizes": [1, 2]})  # the first call came to nothing
    run = tmp_path / "base-seed0"
    run.mkdir()
    hold_settings(tmp_path, {"--images": "some", "sizes": [1, 2]})
    (run / "state.pt").touch()
    hold_settings(tmp_path, {"--images": "some", "sizes": [1, 2]})
    with pytest.raises(SettingsError, match=r"settings: --images some -> none, sizes.1 2 -> 3, new none -> 0;"):
        hold_settings(tmp_path, {"sizes": [1, 3], "new": 0})
    hold_settings(tmp_path, {"--images": "some", "sizes": [1, 2]})


@pytest.mark.parametrize(("text", "words"), [(None, "but no settings.json that says"), ("{", "is not JSON")])
def test_runs_that_nobody_knows_the_settings_of_are_refused(tmp_path, text, words):
    (tmp_path / "base-seed0").mkdir()
    (tmp_path / "base-seed0" / "ap.json").touch()
    if text:
        (tmp_path / "settings.json").write_text(text)
    with pytest.raises(SettingsError, match=f"holds runs, base-seed0 first, .*{words}.*choose another --out"):
        hold_settings(tmp_path, {})
    assert (tmp_path / "settings.json").exists() == bool(text)
