// Pictures as the server sees them: turned upright by their EXIF orientation, also where a browser does not do it.
//
// Browsers turn JPEG and PNG; not all of them turn WebP. Masks are in the upright picture's pixels.

// A WebP of 2 by 1 pixels that says that it lies on its side: upright it is 1 wide.
const LYING = "UklGRk4AAABXRUJQVlA4WAoAAAAIAAAAAQAAAAAAVlA4TA4AAAAvAQAAAAcQEf0PRET/A0VYSUYaAAAATU0AKgAAAAgAAQESAAMAAAABAAYAAAAAAAA=";

let turnsWebp = null; // a promise of whether this browser does

/**
 * The picture as it is to be shown.
 *
 * @param {Blob} file the encoded picture.
 * @param {{format: string, orientation: number}} header what the gateway read in it.
 * @returns {Promise<Blob>} the file itself wherever the browser turns it.
 */
export async function upright(file, { format, orientation }) {
  if (orientation === 1 || format !== "WEBP") return file;
  turnsWebp ??= sizeOf(Uint8Array.from(atob(LYING), (letter) => letter.charCodeAt(0))).then(({ width }) => width === 1);
  return (await turnsWebp) ? file : turned(file, orientation);
}

async function sizeOf(bytes) {
  const bitmap = await createImageBitmap(new Blob([bytes]));
  const { width, height } = bitmap;
  bitmap.close();
  return { width, height };
}

// EXIF 2.32, tag 0x0112: from stored columns and rows to upright ones.
async function turned(file, orientation) {
  const bitmap = await createImageBitmap(file);
  const { width: w, height: h } = bitmap;
  const matrix = {
    2: [-1, 0, 0, 1, w, 0],
    3: [-1, 0, 0, -1, w, h],
    4: [1, 0, 0, -1, 0, h],
    5: [0, 1, 1, 0, 0, 0],
    6: [0, 1, -1, 0, h, 0],
    7: [0, -1, -1, 0, h, w],
    8: [0, -1, 1, 0, 0, w],
  }[orientation];
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = orientation >= 5 ? [h, w] : [w, h];
  const context = canvas.getContext("2d");
  context.setTransform(...matrix);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
