// Masks, outlines and labels over a picture; the same for the stage, the small pictures of a batch and the download.

// Okabe and Ito, "Color Universal Design" (2008): told apart with any common colour blindness.
const COLOURS = ["#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"];
// Once the colours are used up, the line changes; and every instance has its number, so that colour is never alone.
const DASHES = [[], [7, 4], [2, 3]];

/** The colour of an instance, by its number. */
export function colourOf({ number }) {
  return COLOURS[(number - 1) % COLOURS.length];
}

/** A copy of instances above a threshold; the server's own rule: at it is not enough. */
export function above(instances, threshold) {
  return instances.filter((instance) => instance.score > threshold);
}

/**
 * Paint instances on a canvas.
 *
 * @param {CanvasRenderingContext2D} context drawn on as it is, in its own pixels.
 * @param {object[]} instances from shapes.js.
 * @param {object} how scale: canvas pixels for each picture pixel; unit: canvas pixels for each pixel that a person
 *   sees, for lines and text; masks, outlines, labels: what to draw; chosen: an instance to bring out, or null.
 */
export function paint(context, instances, { scale, unit, masks, outlines, labels, chosen = null }) {
  const largestFirst = [...instances].sort((a, b) => b.area - a.area);
  context.save();
  context.scale(scale, scale);
  context.lineJoin = "round";
  for (const instance of largestFirst) {
    const bright = instance === chosen;
    context.globalAlpha = chosen && !bright ? 0.35 : 1;
    if (masks || bright) fill(context, instance, bright ? 0.52 : 0.42);
    if (outlines || bright) stroke(context, instance, ((bright ? 3 : 2) * unit) / scale, unit / scale);
  }
  context.restore();
  if (labels) label(context, chosen ? [chosen] : instances, scale, unit);
}

function fill(context, instance, opacity) {
  const alpha = context.globalAlpha;
  context.globalAlpha = alpha * opacity;
  context.fillStyle = colourOf(instance);
  context.fill(instance.path, "evenodd");
  context.globalAlpha = alpha;
}

function stroke(context, instance, width, unit) {
  context.setLineDash([]);
  context.lineWidth = width + 1.5 * unit;
  context.strokeStyle = "rgb(10 12 18 / 65%)"; // keeps the line visible on any ground
  context.stroke(instance.path);
  const dash = DASHES[Math.floor((instance.number - 1) / COLOURS.length) % DASHES.length];
  context.setLineDash(dash.map((length) => length * unit));
  context.lineWidth = width;
  context.strokeStyle = colourOf(instance);
  context.stroke(instance.path);
}

// The best ones choose their place first. Where there is no room for words the number has to do: the list has the words.
function label(context, instances, scale, unit) {
  const height = 20 * unit;
  const taken = [];
  context.save();
  context.textBaseline = "middle";
  context.font = `600 ${11.5 * unit}px Inter, system-ui, sans-serif`;
  for (const instance of instances) {
    const words = `${instance.class} ${Math.round(100 * instance.score)}%`;
    const badge = Math.max(height, context.measureText(instance.number).width + 10 * unit);
    const wide = badge + context.measureText(words).width + 13 * unit;
    const place =
      placeOf(instance.box, wide, height, scale, context.canvas, taken) ??
      placeOf(instance.box, badge, height, scale, context.canvas, taken);
    if (!place) continue;
    taken.push(place);
    tag(context, place, badge, colourOf(instance));
    context.textAlign = "center";
    context.fillStyle = readableOn(colourOf(instance));
    context.fillText(instance.number, place.x + badge / 2, place.y + height / 2 + unit);
    if (place.width === badge) continue;
    context.fillStyle = "#ffffff";
    context.textAlign = "left";
    context.fillText(words, place.x + badge + 6 * unit, place.y + height / 2 + unit);
  }
  context.restore();
}

// Above the box, else inside it, else further down: the first place that is free, or none.
function placeOf(box, width, height, scale, canvas, taken) {
  const x = Math.max(0, Math.min(box.x1 * scale, canvas.width - width));
  const top = box.y1 * scale;
  const tries = [top - height - 2, top + 2, top + height + 4];
  const places = tries.map((y) => ({ x, y: Math.max(0, Math.min(y, canvas.height - height)), width, height }));
  return places.find((place) => !taken.some((other) => overlap(place, other)));
}

function overlap(a, b) {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}

function tag(context, { x, y, width, height }, badge, colour) {
  const radius = height / 3;
  context.beginPath();
  context.roundRect(x, y, width, height, radius);
  context.fillStyle = "rgb(11 13 18 / 82%)";
  context.fill();
  context.beginPath();
  context.roundRect(x, y, badge, height, width === badge ? radius : [radius, 0, 0, radius]);
  context.fillStyle = colour;
  context.fill();
}

/** Black or white, whichever is read better on a colour of the palette. */
export function readableOn(colour) {
  return colour === "#0072B2" ? "#ffffff" : "#0b0d12";
}
