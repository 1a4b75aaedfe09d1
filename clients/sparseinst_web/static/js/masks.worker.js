// Reads the masks of one picture beside the page, so that it stays smooth: areas, boxes, outlines.

import { outline } from "./outline.js";
import { area, extent, parse, raster } from "./rle.js";

const FINEST = 2048; // pixels of the long side in which outlines are drawn; finer cannot be seen

self.addEventListener("message", ({ data: { id, height, width, counts } }) => {
  try {
    const step = Math.max(1, Math.ceil(Math.max(height, width) / FINEST));
    const masks = counts.map((text) => read(text, height, width, step));
    const moved = masks.flatMap(({ ends, points, starts }) => [ends.buffer, points.buffer, starts.buffer]);
    self.postMessage({ id, masks }, moved);
  } catch (error) {
    self.postMessage({ id, problem: error.message });
  }
});

function read(text, height, width, step) {
  const ends = parse(text, height * width);
  const box = extent(ends, height);
  const { points, starts } = outline(raster(ends, height, box, step));
  for (let i = 0; i < points.length; i += 2) { // from the raster to the picture
    points[i] = Math.min(box.x1 + points[i] * step, box.x2);
    points[i + 1] = Math.min(box.y1 + points[i + 1] * step, box.y2);
  }
  return { ends, area: area(ends), box, points, starts };
}
