// COCO's compressed run lengths, read in the browser.
//
// A mask is a string; its runs alternate between background and instance, down the columns of the picture, background
// first. Here they are kept as the offsets at which the runs end: run r covers ends[r-1]..ends[r] and belongs to the
// instance where r is odd. Points, areas and outlines are read from these without ever painting the whole picture.

const MAX_DIGITS = 6; // of five bits each: no run of a picture that is taken needs more

/**
 * The ends of the runs of a mask.
 *
 * The inverse of rleToString in pycocotools' maskApi.c: digits of five bits, lowest first, bit 5 saying that more
 * follow, bit 4 of the last one being the sign; from the fourth number on it is the difference to the number two before.
 *
 * @param {string} counts COCO's compressed counts.
 * @param {number} pixels height times width of the picture.
 * @returns {Uint32Array} offsets in pixels, column after column; the last one is `pixels`.
 * @throws {RangeError} not such a string, or not of a picture of this size.
 */
export function parse(counts, pixels) {
  const ends = new Uint32Array(counts.length);
  const runs = new Int32Array(counts.length);
  let number = 0;
  let at = 0;
  let total = 0;
  while (at < counts.length) {
    let value = 0;
    let digit;
    let place = 0;
    do {
      digit = counts.charCodeAt(at++) - 48;
      if (!(digit >= 0 && digit < 64) || place >= MAX_DIGITS) {
        throw new RangeError("the mask is no COCO run-length string");
      }
      value |= (digit & 31) << (5 * place++);
    } while (digit & 32);
    if (digit & 16) value |= -1 << (5 * place);
    if (number > 2) value += runs[number - 2];
    total += value;
    if (value < 0 || total > pixels) throw new RangeError("the mask does not fit its picture");
    runs[number] = value;
    ends[number++] = total;
  }
  if (number === 0 || total !== pixels) throw new RangeError("the mask does not fit its picture");
  return ends.slice(0, number);
}

/**
 * Pixels of the instance.
 *
 * @param {Uint32Array} ends from `parse`.
 * @returns {number}
 */
export function area(ends) {
  let sum = 0;
  for (let run = 1; run < ends.length; run += 2) sum += ends[run] - ends[run - 1];
  return sum;
}

/**
 * Whether a pixel belongs to the instance.
 *
 * @param {Uint32Array} ends from `parse`.
 * @param {number} height of the picture.
 * @param {number} x column, a whole number within the picture.
 * @param {number} y row, a whole number within the picture.
 * @returns {boolean}
 */
export function contains(ends, height, x, y) {
  const offset = x * height + y;
  let low = 0;
  let high = ends.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ends[middle] > offset) high = middle;
    else low = middle + 1;
  }
  return (low & 1) === 1;
}

/**
 * The tight box around the instance, in pixel edges.
 *
 * @param {Uint32Array} ends from `parse`.
 * @param {number} height of the picture.
 * @returns {{x1: number, y1: number, x2: number, y2: number}} all 0 where the mask is empty.
 */
export function extent(ends, height) {
  let [x1, y1, x2, y2] = [Infinity, height, 0, 0];
  for (let run = 1; run < ends.length; run += 2) {
    const begin = ends[run - 1];
    const last = ends[run] - 1;
    if (last < begin) continue;
    const first = Math.floor(begin / height);
    const final = Math.floor(last / height);
    x1 = Math.min(x1, first);
    x2 = final + 1;
    const wraps = final > first; // then it touches the lower and the upper border
    y1 = wraps ? 0 : Math.min(y1, begin - first * height);
    y2 = wraps ? height : Math.max(y2, last - final * height + 1);
  }
  return x2 === 0 ? { x1: 0, y1: 0, x2: 0, y2: 0 } : { x1, y1, x2, y2 };
}

/**
 * Paint a part of the mask, every `step`-th pixel of it.
 *
 * @param {Uint32Array} ends from `parse`.
 * @param {number} height of the picture.
 * @param {{x1: number, y1: number, x2: number, y2: number}} box the part, in pixel edges.
 * @param {number} step 1 paints every pixel; n takes the middle one of each n by n, at the far
 *   borders the last one.
 * @returns {{pixels: Uint8Array, columns: number, rows: number}} 0 and 1, column after column.
 */
export function raster(ends, height, box, step = 1) {
  const columns = Math.ceil((box.x2 - box.x1) / step);
  const rows = Math.ceil((box.y2 - box.y1) / step);
  const pixels = new Uint8Array(columns * rows);
  const half = step >> 1;
  let run = 0;
  for (let column = 0; column < columns; column++) {
    const top = Math.min(box.x1 + column * step + half, box.x2 - 1) * height;
    const row = (offset) => { // the first row of the raster that is taken from this row of the picture, or a later one
      if (offset >= top + box.y2) return rows;
      return Math.min(rows - 1, Math.max(0, Math.ceil((offset - top - box.y1 - half) / step)));
    };
    while (ends[run] <= top) run++;
    for (let r = run; r < ends.length; r++) {
      const begin = r === 0 ? 0 : ends[r - 1];
      if (begin >= top + box.y2) break;
      if (r & 1) pixels.fill(1, column * rows + row(begin), column * rows + row(ends[r]));
    }
  }
  return { pixels, columns, rows };
}
