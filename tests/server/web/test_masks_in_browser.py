"""The page's own reading of COCO run lengths, against pycocotools, in the browser that will do it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

_READ = """async ({counts, height, width}) => {
  const {parse, area, extent, contains, raster} = await import("./static/js/rle.js");
  const {outline} = await import("./static/js/outline.js");
  const ends = parse(counts, height * width);
  const whole = raster(ends, height, {x1: 0, y1: 0, x2: width, y2: height});
  const half = raster(ends, height, {x1: 0, y1: 0, x2: width, y2: height}, 2);
  const {points, starts} = outline(whole);
  const path = new Path2D();
  starts.forEach((start, index) => {
    const end = index + 1 < starts.length ? starts[index + 1] : points.length / 2;
    for (let i = start; i < end; i++) path.lineTo(points[2 * i], points[2 * i + 1]);
    path.closePath();
    if (end < points.length / 2) path.moveTo(points[2 * end], points[2 * end + 1]);
  });
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  const [inside, drawn] = [[], []];
  for (let x = 0; x < width; x++) for (let y = 0; y < height; y++) {
    inside.push(contains(ends, height, x, y));
    drawn.push(context.isPointInPath(path, x + 0.5, y + 0.5, "evenodd"));
  }
  return {area: area(ends), box: extent(ends, height), whole: [...whole.pixels], half: [...half.pixels], inside, drawn};
}"""
_SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 20))
# From speckles to nearly full, so that runs are long and short.
_MASKS = st.tuples(_SHAPES, st.integers(1, 9), st.integers(0, 2**32 - 1))
_PAGE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def page(browser, gateway):
    context = browser.new_context()
    page = context.new_page()
    page.goto(gateway)
    yield page
    context.close()


def read(page, mask):
    """What the page reads in a mask."""
    height, width = mask.shape
    counts = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode("ascii")
    return page.evaluate(_READ, {"counts": counts, "height": height, "width": width})


def check(page, mask):
    height, width = mask.shape
    got = read(page, mask)
    columns = np.asarray(mask, np.uint8).T  # COCO goes down the columns
    assert got["whole"] == columns.ravel().tolist()
    assert got["inside"] == columns.ravel().astype(bool).tolist()
    assert got["drawn"] == columns.ravel().astype(bool).tolist()
    middles = [np.minimum(np.arange(1, side + 1, 2), side - 1) for side in (width, height)]
    assert got["half"] == columns[np.ix_(*middles)].ravel().tolist()
    assert got["area"] == int(mask.sum())
    ys, xs = np.nonzero(mask)
    box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else (0, 0, 0, 0)
    assert got["box"] == dict(zip(("x1", "y1", "x2", "y2"), map(int, box), strict=True))


@_PAGE
@given(_MASKS)
def test_noise_is_read_as_by_pycocotools(page, drawn):
    (height, width), tenths, seed = drawn
    check(page, np.random.default_rng(seed).random((height, width)) < tenths / 10)


@_PAGE
@given(arrays(np.bool_, _SHAPES))
def test_masks_that_hypothesis_thinks_of_are_read_as_by_pycocotools(page, mask):
    check(page, mask)


@pytest.mark.parametrize("full", [False, True])
def test_a_large_mask_is_read_as_by_pycocotools(page, full):
    y, x = np.mgrid[:900, :1300]
    ring = ((x - 600) ** 2 + (y - 400) ** 2 < 380**2) & ((x - 600) ** 2 + (y - 400) ** 2 > 200**2)
    mask = np.ones_like(ring) if full else ring
    counts = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode("ascii")
    got = page.evaluate(
        """async ({counts}) => {
          const {parse, area, raster} = await import("./static/js/rle.js");
          const ends = parse(counts, 900 * 1300);
          const {pixels} = raster(ends, 900, {x1: 0, y1: 0, x2: 1300, y2: 900});
          let sum = 0, check = 0;
          pixels.forEach((value, at) => { sum += value; check = (check + value * at) % 1000003; });
          return [area(ends), sum, check];
        }""",
        {"counts": counts},
    )
    offsets = np.flatnonzero(mask.T.ravel())
    assert got == [len(offsets), len(offsets), int(offsets.sum() % 1000003)]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(min_codepoint=32, max_codepoint=130), max_size=12))
def test_any_other_string_is_refused_or_adds_up_to_the_picture(page, counts):
    got = page.evaluate(
        """async (counts) => {
          const {parse} = await import("./static/js/rle.js");
          try {
            const ends = parse(counts, 30);
            return ends.at(-1) === 30 && ends.every((end, at) => at === 0 || end >= ends[at - 1]);
          } catch (error) { return error instanceof RangeError; }
        }""",
        counts,
    )
    assert got is True
