// From a gateway's reply to instances that can be drawn and pointed at.

import { contains } from "./rle.js";

const worker = new Worker(new URL("./masks.worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let asked = 0;

worker.addEventListener("message", ({ data: { id, masks, problem } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (problem) reject(new Error(`The server's reply cannot be read: ${problem}.`));
  else resolve(masks);
});

/**
 * The instances of a reply, best score first.
 *
 * @returns {Promise<object[]>} of each: number (from 1), class, category_id, score, counts, area in pixels, box in
 *   pixel edges, ends (see rle.js) and path, a Path2D in the picture's pixels.
 */
export async function shapesOf(reply) {
  const counts = reply.instances.map((instance) => instance.counts);
  const id = ++asked;
  const masks = await new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, height: reply.height, width: reply.width, counts });
  });
  return reply.instances.map((instance, index) => {
    const { points, starts, ...mask } = masks[index];
    return { ...instance, ...mask, number: index + 1, path: pathOf(points, starts) };
  });
}

/** The instance under a pixel; of several the smallest, so that none hides behind a larger one. */
export function instanceAt(instances, height, x, y) {
  let found = null;
  for (const instance of instances) {
    const { box } = instance;
    if (x < box.x1 || x >= box.x2 || y < box.y1 || y >= box.y2) continue;
    if (found && found.area <= instance.area) continue;
    if (contains(instance.ends, height, x, y)) found = instance;
  }
  return found;
}

function pathOf(points, starts) {
  const path = new Path2D();
  starts.forEach((start, index) => {
    const end = index + 1 < starts.length ? starts[index + 1] : points.length / 2;
    path.moveTo(points[2 * start], points[2 * start + 1]);
    for (let i = start + 1; i < end; i++) path.lineTo(points[2 * i], points[2 * i + 1]);
    path.closePath();
  });
  return path;
}
