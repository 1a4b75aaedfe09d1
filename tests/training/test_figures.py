"""Figures: activation maps are the decoder's own, lie where the picture lies, and what is drawn can be opened."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sparseinst import Predictor, load_model
from sparseinst.checkpoint import save_weights
from sparseinst.cli import main
from sparseinst.evaluate import torch_engine
from sparseinst.figures import drawing
from sparseinst.figures.activations import FigureError, observer, stretched, to_picture, weights
from sparseinst.figures.average import average, coverage
from sparseinst.figures.grid import Scene, Shapes, partners, results_grid
from sparseinst.figures.instances import activation_figure, figure_size
from sparseinst.network import SparseInst
from sparseinst_runtime.decode import decode
from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.masks import segment

DARK, BRIGHT = -15.0, 15.0  # logits


class Spot(nn.Module):
    """Activation logits that are bright in one cell of one channel and dark elsewhere, whatever the features."""

    def __init__(self, channels: int, channel: int, row: int, column: int) -> None:
        super().__init__()
        self.channels, self.place = channels, (0, channel, row, column)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logits = torch.full((1, self.channels, *features.shape[2:]), DARK)
        logits[self.place] = BRIGHT
        return logits


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


@pytest.fixture
def bundled(bundled_model):
    return load_model(bundled_model / "model.safetensors")


@pytest.fixture
def command(bundled_model):
    """The beginning of a command, whose weights are the bundled ones."""
    return lambda figure: ["figures", figure, "--weights", str(bundled_model / "model.safetensors"), "--device", "cpu"]


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_listens_to_the_network_afterwards(small_model, small_contract, fails):
    conv = small_model.decoder.inst_branch.iam_conv
    observe = observer(small_model, small_contract)
    if fails:
        conv.register_forward_pre_hook(lambda _m, _i: pytest.fail(f"{len(conv._forward_hooks)} listens"))
        with pytest.raises(pytest.fail.Exception, match="1 listens"):
            observe(grey(30, 40))
    else:
        observe(grey(30, 40))
    assert len(conv._forward_hooks) == 0


def test_observing_does_not_change_what_is_found(bundled_model, bundled, scenes):
    picture = decode((scenes / "images" / "scene_02.jpg").read_bytes())
    served = Predictor(bundled_model / "model.safetensors")(picture)
    found = observer(*bundled)(picture).found
    assert len(found) == len(served) == 3
    assert [one.score for one in found] == served.scores.tolist()
    assert [one.label for one in found] == served.labels.tolist()
    assert tuple(one.instance.rles[0] for one in found) == served.rles
    assert len({one.query for one in found}) == 3


def test_each_instance_is_what_its_own_query_gives_alone(bundled, scenes):
    model, contract = bundled
    picture = decode((scenes / "images" / "scene_02.jpg").read_bytes())
    seen = observer(model, contract, score_threshold=0.005)(picture)
    square = seen.letterbox.apply(picture, contract.pad_colour)
    scores, labels, masks = (part[0] for part in torch_engine(model, contract)(square[None]))
    order = [n for n in np.argsort(-scores, kind="stable").tolist() if scores[n] > 0.005]
    queries = [found.query for found in seen.found]
    assert queries == [n for n in order if n in queries]
    assert 3 < len(queries) < len(scores)
    for n in order:
        one = slice(n, n + 1)
        alone = segment(
            scores[one], labels[one], masks[one], seen.letterbox,
            score_threshold=0.005, mask_threshold=contract.mask_threshold,
        )  # fmt: skip
        assert len(alone) == (n in queries)
        if len(alone):
            instance = seen.found[queries.index(n)].instance
            assert (instance.rles, instance.image_size) == (alone.rles, alone.image_size)
            for field in ("scores", "labels", "boxes"):
                np.testing.assert_array_equal(getattr(instance, field), getattr(alone, field))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_weights_sum_to_one_and_stand_under_their_query_and_group(small_config, activation):
    config = replace(small_config.decoder, iam_activation=activation)
    logits = torch.randn(2, config.groups * config.instances, 5, 6)
    maps = weights(logits, config)
    assert tuple(maps.shape) == (2, config.groups, config.instances, 5, 6)
    torch.testing.assert_close(maps.sum(dim=(-2, -1)), torch.ones(2, config.groups, config.instances))
    for g, n in ((0, 0), (1, 0), (1, 6)):
        plain = logits[:, g * config.instances + n].double()
        plain = plain.exp() if activation == "softmax" else plain.sigmoid()
        plain = plain / plain.sum(dim=(-2, -1), keepdim=True)
        torch.testing.assert_close(maps[:, g, n].double(), plain, rtol=1e-5, atol=1e-8)


def test_the_maps_are_those_the_decoder_gathers_with(small_model, small_contract):
    """Weighing the branch's own features with the observed maps gives what the next layer gets."""
    branch, heard = small_model.decoder.inst_branch, {}
    branch.inst_convs.register_forward_hook(lambda _m, _i, out: heard.update(features=out))
    branch.fc.register_forward_hook(lambda _m, inputs, _o: heard.update(gathered=inputs[0]))
    maps = observer(small_model, small_contract)(grey(30, 40)).maps
    expected = torch.einsum("gnhw,chw->ngc", maps, heard["features"][0]).flatten(1)
    torch.testing.assert_close(heard["gathered"][0], expected, rtol=1e-4, atol=1e-6)


def test_a_cell_that_fires_lights_the_pixel_it_stands_for(small_model, small_contract):
    """A picture of 100 x 200 lies in the square of 64 as 32 x 64: the centre of cell (2, 5) is at (20, 44) there."""
    config = small_model.config.decoder
    small_model.decoder.inst_branch.iam_conv = Spot(14, channel=1 * config.instances + 3, row=2, column=5)
    seen = observer(small_model, small_contract)(grey(100, 200))
    assert tuple(seen.maps.shape) == (2, 7, 8, 8)
    picture = to_picture(seen.maps[1], seen.letterbox)
    assert picture.shape == (7, 100, 200)
    row, column = np.unravel_index(picture[3].argmax(), (100, 200))
    assert (row + 0.5, column + 0.5) == (20 / 0.32, 44 / 0.32)
    assert picture[3].max() == pytest.approx(1, abs=1e-4)
    rows, columns = (picture[3] > 1e-3).nonzero()
    assert rows.max() - rows.min() < 2 * 8 / 0.32  # one cell to either side, and no further
    assert columns.max() - columns.min() < 2 * 8 / 0.32
    assert picture[0].max() == pytest.approx(1 / 64, abs=1e-5)  # dark everywhere is the same everywhere


def test_what_fires_in_the_padding_is_not_in_the_picture(small_model, small_contract):
    small_model.decoder.inst_branch.iam_conv = Spot(14, channel=3, row=5, column=5)
    seen = observer(small_model, small_contract)(grey(100, 200))
    assert seen.maps[0, 3].max() == pytest.approx(1, abs=1e-4)
    assert to_picture(seen.maps[0, 3][None], seen.letterbox).max() < 1e-6


@pytest.mark.parametrize("size", [(100, 200), (200, 100), (37, 91), (640, 640)])
def test_maps_come_into_the_picture_as_masks_do(size):
    letterbox = Letterbox.fit(*size, (64, 64))
    grid = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    values = to_picture(torch.from_numpy(grid)[None], letterbox)[0]
    score, label = np.ones(1, np.float32), np.zeros(1, np.int32)
    mask = segment(score, label, grid[None], letterbox, score_threshold=0, mask_threshold=0.45).mask(0)
    assert np.count_nonzero((values > 0.45 * 255) != mask) <= 1e-4 * mask.size  # float32 at the threshold
    assert 0.1 < mask.mean() < 0.9


def test_stretched_spans_zero_to_one_and_leaves_a_flat_map_dark():
    values = stretched(np.array([[3, 5], [4, np.nan]], np.float32))
    np.testing.assert_array_equal(values, [[0, 1], [0.5, np.nan]])
    assert not stretched(np.full((2, 2), 7, np.float32)).any()


def test_padding_does_not_count_in_an_average(small_model, small_contract):
    """All cells alike: the average is alike wherever a picture was, and unknown where none was."""
    small_model.decoder.inst_branch.iam_conv = Spot(14, channel=0, row=0, column=0)
    averages = average(observer(small_model, small_contract), [grey(64, 20), grey(32, 64), grey(32, 64)], classes=3)
    expected = np.full((8, 8), np.nan, np.float32)
    expected[:, :3] = expected[:4] = 1 / 64
    np.testing.assert_allclose(averages.maps[1, 2], expected, rtol=1e-5)
    np.testing.assert_allclose(averages.maps[0, 0][0, :3], [1, 0, 0], atol=1e-4)
    assert averages.coverage[0, 2] == pytest.approx((0.5 + 1 + 1) / 3)  # 20 pixels end in the middle of cell 2
    assert averages.pictures == 3


def test_coverage_adds_up_to_the_picture():
    letterbox = Letterbox.fit(90, 130, (64, 64))
    area = 8 * 8 * coverage(letterbox, 8, 8).sum()
    assert area == pytest.approx(letterbox.scaled_height * letterbox.scaled_width)


def test_average_command_counts_what_is_found(tmp_path, scenes, command, bundled, capsys):
    subset = json.loads((scenes / "instances.json").read_text())
    subset["images"] = subset["images"][1:4]
    subset["annotations"] = []
    (tmp_path / "three.json").write_text(json.dumps(subset))
    files = {name: tmp_path / f"a.{name}" for name in ("png", "json", "npz")}
    source = ["--annotations", str(tmp_path / "three.json"), "--images", str(scenes / "images")]
    outputs = ["--out", str(files["png"]), "--json", str(files["json"]), "--npz", str(files["npz"])]
    assert main([*command("average-activations"), *source, *outputs, "--columns", "10", "--tile", "40"]) == 0

    model, contract = bundled
    observe, queries = observer(model, contract), []
    for row in subset["images"]:
        found = observe(decode((scenes / "images" / row["file_name"]).read_bytes())).found
        queries += [one.query for one in found]
    numbers, arrays = json.loads(files["json"].read_text()), np.load(io.BytesIO(files["npz"].read_bytes()))
    assert numbers["pictures"] == arrays["pictures"] == 3
    assert {row["query"]: row["wins"] for row in numbers["queries"]} == {q: queries.count(q) for q in range(50)}
    wins = [row["wins"] for row in numbers["queries"]]
    assert wins == sorted(wins, reverse=True)
    assert arrays["maps"].shape == (4, 50, 40, 40)
    assert arrays["wins"].sum() == len(queries) > 0
    assert Image.open(files["png"]).size == (10 * 40 + 9 * 8 + 20, 26 + 5 * (40 + 18 + 8) - 8 + 26 + 20)
    assert f"{files['png']}: 492 x 394 pixels" in capsys.readouterr().out


@pytest.mark.parametrize(("groups", "rows"), [([], 2), (["--groups"], 5)])
def test_activations_command_draws_two_instances(tmp_path, scenes, command, groups, rows):
    out = tmp_path / "activations.png"
    picture = scenes / "images" / "scene_02.jpg"  # 800 x 450, three instances
    options = ["--out", str(out), "--instances", "2", "--tile", "160", *groups]
    assert main([*command("activations"), str(picture), *options]) == 0
    figure = Image.open(out)
    assert figure.size == figure_size(2, rows, 160, 90)
    assert len(set(map(tuple, np.asarray(figure.convert("RGB")).reshape(-1, 3)))) > 1000  # and it shows something


def test_grid_command_draws_all_pictures_of_the_annotations(tmp_path, scenes, command):
    subset = json.loads((scenes / "instances.json").read_text())
    subset["images"] = subset["images"][:3]
    kept = {image["id"] for image in subset["images"]}
    subset["annotations"] = [row for row in subset["annotations"] if row["image_id"] in kept]
    (tmp_path / "three.json").write_text(json.dumps(subset))
    for options, width in (
        (["--annotations", str(tmp_path / "three.json"), "--images", str(scenes / "images")], 2 * 2 * 100 + 8),
        ([str(scenes / "images" / row["file_name"]) for row in subset["images"]], 3 * 100 + 2 * 8),
    ):
        out = tmp_path / "grid.webp"
        assert main([*command("grid"), *options, "--out", str(out), "--tile", "100"]) == 0
        assert Image.open(out).width == width


def test_rows_of_a_grid_end_together_and_keep_shapes():
    aspects = [1.5, 0.5, 1.0, 2.0, 1.25]
    rows = drawing.justified(aspects, columns=2, width=400, gap=10)
    assert [len(row) for row in rows] == [2, 2, 1]
    for row in rows[:2]:
        x, wide, _ = row[-1]
        assert x + wide == 400
    for aspect, (_, wide, high) in zip(aspects, [spot for row in rows for spot in row], strict=True):
        assert wide / high == pytest.approx(aspect, abs=0.02)


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_a_prediction_has_the_colour_of_what_it_covers():
    truth = Shapes(np.stack([rectangle(0, 0, 20, 20), rectangle(0, 30, 20, 50)]), ("a", "b"))
    predicted = [rectangle(0, 30, 20, 48), rectangle(0, 32, 20, 50), rectangle(25, 0, 40, 20), rectangle(0, 0, 20, 22)]
    found = Shapes(np.stack(predicted), ("b 0.9", "b 0.8", "a 0.7", "c 0.6"))
    there, colours = partners(Scene(grey(40, 60), found, truth))
    # the second covers what the first has taken already, the third covers nothing, and the last goes by place alone
    assert colours == [there[1], drawing.NOBODY, drawing.NOBODY, there[0]]
    assert there[0] != there[1]


def test_masks_are_painted_where_they_are_and_nowhere_else():
    picture = grey(40, 60)
    painted = drawing.painted(picture, [rectangle(10, 10, 30, 30)], [(230, 159, 0)])
    changed = (painted != picture).any(axis=2)
    assert changed[13:27, 13:27].all()
    assert not changed[:8].any()
    assert not changed[:, 33:].any()
    np.testing.assert_allclose(painted[20, 20], (np.array([230, 159, 0]) + 128) / 2, atol=1)


def test_words_stay_inside_a_narrow_tile():
    scene = Scene(grey(40, 60), Shapes(rectangle(0, 50, 20, 60)[None], ("a class with a very long name 0.99",)))
    figure = results_grid([scene], columns=1, tile=60)
    assert figure.shape == (40, 60, 3)
    assert np.array_equal(figure[39, :5], grey(1, 5)[0])


def test_a_network_without_activation_maps_is_named_and_still_has_a_grid(
    small_config, small_contract, tmp_path, capsys
):
    decoder = replace(small_config.decoder, gathering="cross_attention", groups=1)
    model = SparseInst(replace(small_config, decoder=decoder)).eval()
    path = save_weights(tmp_path / "model.safetensors", model, small_contract)
    Image.fromarray(grey(30, 40)).save(tmp_path / "p.png")
    rest = [str(tmp_path / "p.png"), "--weights", str(path), "--out", str(tmp_path / "out.png"), "--device", "cpu"]
    assert main(["figures", "activations", *rest]) == 1
    assert "no instance activation maps (no iam_conv in its decoder)" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()
    assert main(["figures", "grid", *rest]) == 0
    assert Image.open(tmp_path / "out.png").width == 320


def test_nothing_found_is_said(small_model, small_contract):
    seen = observer(small_model, small_contract, score_threshold=1.0)(grey(30, 40))
    with pytest.raises(FigureError, match="found nothing in this picture; lower --score-threshold"):
        activation_figure(grey(30, 40), seen, small_contract.classes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["activations", "{tmp}/none.jpg", "--out", "{tmp}/a.png"], "cannot read"),
        (["activations", "{tmp}/text.jpg", "--out", "{tmp}/a.png"], "text.jpg: got data that starts with"),
        (["activations", "{scene}", "--out", "{tmp}/a.gif"], "wanted a name that ends in .png"),
        (["activations", "{scene}", "--out", "{tmp}/no/a.png"], "is no folder; make it first"),
        (["activations", "{scene}", "--out", "{tmp}/a.png", "--score-threshold", "2"], "wanted a number in [0, 1]"),
        (
            ["activations", "{scene}", "--out", "{tmp}/a.png", "--weights", "{tmp}/text.jpg"],
            "not a readable safetensors",
        ),
        (["grid", "--out", "{tmp}/a.png"], "got 0 pictures to draw; wanted 1 to 64"),
        (["grid", *["{scene}"] * 65, "--out", "{tmp}/a.png"], "got 65 pictures to draw; wanted 1 to 64"),
        (["grid", "{scene}", "--out", "{tmp}/a.png", "--images", "{tmp}"], "wanted both, or none"),
        (
            ["grid", "{tmp}/x.jpg", "--out", "{tmp}/a.png", "--annotations", "{truth}", "--images", "{images}"],
            "x.jpg is none of the pictures of",
        ),
        (
            ["average-activations", "--out", "{tmp}/a.png", "--annotations", "{truth}", "--images", "{tmp}"],
            "16 of 16 pictures of the annotations are missing",
        ),
    ],
)
def test_what_cannot_be_drawn_is_answered_in_a_sentence(arguments, words, tmp_path, scenes, command, capsys):
    (tmp_path / "text.jpg").write_text("this is no picture, and these are no weights")
    images = scenes / "images"
    places = {"tmp": tmp_path, "scene": images / "scene_00.jpg", "images": images, "truth": scenes / "instances.json"}
    figure, *rest = (argument.format(**places) for argument in arguments)
    assert main([*command(figure), *rest]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("a.*"))
