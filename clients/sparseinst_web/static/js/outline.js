// The outline of a painted mask as closed lines, so that it can be drawn crisply at any scale.
//
// The borders between pixels are followed with the instance on the right hand. A corner is cut from the middle of one
// pixel's side to the middle of the next: stairs become slopes, and no line is further than half a pixel from the mask.

const STEP_X = [1, 0, -1, 0]; // right, down, left, up
const STEP_Y = [0, 1, 0, -1];

/**
 * Closed lines around, and inside, a mask.
 *
 * @param {{pixels: Uint8Array, columns: number, rows: number}} mask from `raster`.
 * @returns {{points: Float32Array, starts: Uint32Array}} x, y, x, y, ... in pixel edges of the raster, and where each
 *   line starts, counted in points. To fill it use the even-odd rule: lines inside are holes.
 */
export function outline({ pixels, columns, rows }) {
  const points = [];
  const starts = [];
  const seen = new Uint8Array(pixels.length); // pixels whose upper side was walked along
  const inside = (x, y) => x >= 0 && y >= 0 && x < columns && y < rows && pixels[x * rows + y] === 1;

  const walk = (startX, startY) => {
    starts.push(points.length / 2);
    let [x, y, direction, turned] = [startX, startY, 0, true];
    do {
      if (direction === 0) seen[x * rows + y] = 1;
      const middleX = x + STEP_X[direction] / 2;
      const middleY = y + STEP_Y[direction] / 2;
      x += STEP_X[direction];
      y += STEP_Y[direction];
      const next = turn(x, y, direction);
      // Of a straight stretch the first and the last middle are enough.
      if (turned || next !== direction) points.push(middleX, middleY);
      turned = next !== direction;
      direction = next;
    } while (x !== startX || y !== startY || direction !== 0);
  };

  // Pixels that touch at a corner alone are apart: right is tried before left.
  const turn = (x, y, direction) => {
    const [right, left] = ahead(x, y, direction);
    if (!inside(...right)) return (direction + 1) & 3;
    if (inside(...left)) return (direction + 3) & 3;
    return direction;
  };

  for (let x = 0; x < columns; x++) {
    for (let y = 0; y < rows; y++) {
      const at = x * rows + y;
      if (pixels[at] === 1 && seen[at] === 0 && (y === 0 || pixels[at - 1] === 0)) walk(x, y);
    }
  }
  return { points: Float32Array.from(points), starts: Uint32Array.from(starts) };
}

// The two pixels that meet ahead of a corner point, the one on the right hand first.
function ahead(x, y, direction) {
  switch (direction) {
    case 0:
      return [[x, y], [x, y - 1]];
    case 1:
      return [[x - 1, y], [x, y]];
    case 2:
      return [[x - 1, y - 1], [x - 1, y]];
    default:
      return [[x, y - 1], [x - 1, y - 1]];
  }
}
