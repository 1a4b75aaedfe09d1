// What can be taken home: the picture with its masks as PNG, and the instances in COCO's JSON.

import { above, paint } from "./draw.js";

const MOST_PIXELS = 16_700_000; // what every browser's canvas holds

/** A PNG of a picture with what is shown on it, in its own size (scaled to 16 megapixels where it has more). */
export async function pngOf(picture, view) {
  const whole = await createImageBitmap(picture.seen);
  const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (picture.width * picture.height)));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(picture.width * scale);
  canvas.height = Math.round(picture.height * scale);
  const context = canvas.getContext("2d");
  context.drawImage(whole, 0, 0, canvas.width, canvas.height);
  whole.close();
  const unit = Math.max(1, Math.max(canvas.width, canvas.height) / 1000);
  paint(context, above(picture.instances, view.threshold), { ...view, scale, unit });
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/**
 * The instances above a threshold as a COCO data set that pycocotools reads: images, annotations with a score and
 * compressed run lengths in the picture's own pixels, and the model's categories.
 */
export function cocoOf(pictures, model, threshold) {
  const done = pictures.filter(({ status }) => status === "done");
  const images = done.map(({ name, width, height }, index) => ({ id: index + 1, file_name: name, width, height }));
  const found = done.flatMap(({ instances, width, height }, index) =>
    above(instances, threshold).map(({ category_id, score, area, box, counts }) => ({
      image_id: index + 1,
      category_id,
      score,
      area,
      bbox: [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1],
      iscrowd: 0,
      segmentation: { size: [height, width], counts },
    })),
  );
  return {
    info: { description: `found by SparseInst, model ${model.name}, scores above ${threshold}` },
    images,
    categories: model.classes.map((name, index) => ({ id: model.category_ids[index], name })),
    annotations: found.map((annotation, index) => ({ id: index + 1, ...annotation })),
  };
}

/** Have the browser save something under a name. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A file's name without its ending. */
export function stemOf(name) {
  return name.replace(/\.[^.]*$/, "") || name;
}
