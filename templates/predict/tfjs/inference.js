// SPDX-License-Identifier: Apache-2.0
"use strict";

// From a photograph to detections, apart from the network: what segc.inference does in Python, step by step and with
// the same roundings, so that this page finds what `segc predict` finds. Sizes are [height, width] in pixels.

/** The nearest whole number, of two the even one: Python's round(). */
function roundHalfEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** A single-precision number to so many decimals; its product with 10 ** decimals is exact in double precision. */
function rounded(value, decimals) {
  return roundHalfEven(value * 10 ** decimals) / 10 ** decimals;
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

// ---- letterbox: the photograph in the network's frame

/** Where a photograph of size `original` lies in a frame of size `size`, proportions kept, the rest padding. */
function letterboxGeometry(original, size) {
  const ratio = Math.min(size[0] / original[0], size[1] / original[1]);
  const resized = original.map((side) => Math.max(1, roundHalfEven(side * ratio)));
  // An odd remainder goes to the right and to the bottom.
  const [top, left] = [0, 1].map((axis) => roundHalfEven((size[axis] - resized[axis]) / 2 - 0.1));
  return { original, size, resized, top, left };
}

/** Frame pixels a photograph pixel, down and across. */
function ratios(geometry) {
  return [0, 1].map((axis) => geometry.resized[axis] / geometry.original[axis]);
}

/**
 * The network's input from a photograph: resized, padded, channels last, in 0..1.
 *
 * @param photo an object with `height`, `width` and `row(y)`, the bytes R, G, B, A, R, … of a row; rows are asked for
 *   from the top down, none again after the second one below it.
 * @returns {{input: Float32Array, geometry: object}} `input` is [height, width, 3] of the frame.
 */
function letterbox(photo, size) {
  const geometry = letterboxGeometry([photo.height, photo.width], size);
  // A table of true quotients: multiplying by 1/255 differs in the last bit for a third of the values.
  const share = Float32Array.from({ length: 256 }, (_, value) => value / 255);
  const input = new Float32Array(size[0] * size[1] * 3).fill(share[PADDING_GREY]);
  const length = geometry.resized[1] * 3;
  const write = rowWriter(photo, geometry);
  const bytes = new Uint8Array(length);
  for (let y = 0; y < geometry.resized[0]; y++) {
    write(y, bytes);
    const start = ((geometry.top + y) * size[1] + geometry.left) * 3;
    for (let i = 0; i < length; i++) input[start + i] = share[bytes[i]];
  }
  return { input, geometry };
}

/** A function that writes the R, G, B bytes of a row of the resized photograph. */
function rowWriter(photo, geometry) {
  const [height, width] = geometry.resized;
  if (photo.height === height && photo.width === width) return copyingWriter(photo, width);
  if (photo.height === 2 * height && photo.width === 2 * width) return halvingWriter(photo, width);
  return bilinearWriter(photo, height, width);
}

function copyingWriter(photo, width) {
  return (y, bytes) => {
    const row = photo.row(y);
    for (let x = 0; x < width; x++) for (let c = 0; c < 3; c++) bytes[x * 3 + c] = row[x * 4 + c];
  };
}

/** Exactly half the size is the mean of two by two pixels, as OpenCV has it. */
function halvingWriter(photo, width) {
  return (y, bytes) => {
    const [a, b] = [photo.row(2 * y), photo.row(2 * y + 1)];
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) {
        const i = x * 8 + c;
        bytes[x * 3 + c] = (a[i] + a[i + 4] + b[i] + b[i + 4] + 2) >> 2;
      }
    }
  };
}

/** Bilinear in fixed point, weights in 1/2048, intermediate sums shortened: OpenCV's INTER_LINEAR for bytes. */
function bilinearWriter(photo, height, width) {
  const across = resizeAxis(photo.width, width);
  const down = resizeAxis(photo.height, height);
  for (let x = 0; x < width; x++) {
    // Across, a pixel beyond the edge takes the edge's whole weight; down, two equal rows share it.
    if (across.cell[x] < 0 || across.cell[x] >= photo.width - 1) {
      across.cell[x] = clamp(across.cell[x], 0, photo.width - 1);
      [across.first[x], across.second[x]] = [2048, 0];
    }
  }
  const kept = new Map();
  const wide = (y) => {
    if (!kept.has(y)) kept.set(y, stretchRow(photo.row(y), across, photo.width, width));
    return kept.get(y);
  };
  return (y, bytes) => {
    const [upper, lower] = [0, 1].map((step) => clamp(down.cell[y] + step, 0, photo.height - 1));
    for (const other of kept.keys()) if (other < upper) kept.delete(other);
    const [a, b] = [wide(upper), wide(lower)];
    const [first, second] = [down.first[y], down.second[y]];
    for (let i = 0; i < bytes.length; i++) {
      bytes[i] = (((first * (a[i] >> 4)) >> 16) + ((second * (b[i] >> 4)) >> 16) + 2) >> 2;
    }
  };
}

/** Where the pixels of a resized row read the original: the first of two cells, and the weights of both in 1/2048. */
function resizeAxis(cells, pixels) {
  const scale = 1 / (pixels / cells);
  const axis = { cell: new Int32Array(pixels), first: new Int32Array(pixels), second: new Int32Array(pixels) };
  for (let i = 0; i < pixels; i++) {
    const position = Math.fround((i + 0.5) * scale - 0.5);
    axis.cell[i] = Math.floor(position);
    const fraction = Math.fround(position - axis.cell[i]);
    axis.first[i] = roundHalfEven(Math.fround(1 - fraction) * 2048);
    axis.second[i] = roundHalfEven(fraction * 2048);
  }
  return axis;
}

/** A row of R, G, B, A bytes stretched to `width` pixels of three channels, values times 2048. */
function stretchRow(row, across, cells, width) {
  const result = new Int32Array(width * 3);
  for (let x = 0; x < width; x++) {
    const left = across.cell[x] * 4;
    const right = Math.min(across.cell[x] + 1, cells - 1) * 4;
    for (let c = 0; c < 3; c++) {
      result[x * 3 + c] = row[left + c] * across.first[x] + row[right + c] * across.second[x];
    }
  }
  return result;
}

// ---- detections: candidates above a confidence, then non-maximum suppression

/**
 * Detections of one image, best score first.
 *
 * @param outputs the network's: `boxes` [anchors, 4] (x1, y1, x2, y2 in pixels of the frame), `scores`
 *   [anchors, classes], as Float32Arrays.
 * @param options `conf` (scores at or below it are left out), `iou`, `maxDet`.
 * @returns rows of `anchor`, `classId`, `score` and `box`.
 */
function detections(outputs, classes, options) {
  return suppress(candidates(outputs, classes, options.conf), options.iou, options.maxDet);
}

/** Scores of one class each as scores of all classes, 0 for the others: `scores` [anchors, classes]. */
function spreadScores(scores, classIds, classes) {
  const spread = new Float32Array(scores.length * classes);
  scores.forEach((score, row) => (spread[row * classes + classIds[row]] = score));
  return spread;
}

/** Every anchor whose best class is above `conf`, in anchor order, but for boxes that are no boxes. */
function candidates(outputs, classes, conf) {
  const threshold = Math.fround(conf);
  const found = [];
  for (let anchor = 0; anchor < outputs.scores.length / classes; anchor++) {
    let best = 0;
    let classId = 0;
    for (let c = 0; c < classes; c++) {
      if (outputs.scores[anchor * classes + c] > best) [best, classId] = [outputs.scores[anchor * classes + c], c];
    }
    const box = outputs.boxes.subarray(anchor * 4, anchor * 4 + 4);
    if (best > threshold && box.every(Number.isFinite)) found.push({ anchor, classId, score: best, box });
  }
  return found;
}

/**
 * Greedy suppression: a box goes where its IoU with a kept, better one of its class is above `iou`. Of equal scores the
 * earlier one is better. Boxes are moved by their class before they are compared, for the rounding that it brings.
 */
function suppress(found, iou, maxDet) {
  const threshold = Math.fround(iou);
  const order = found.map((row) => ({ row, corners: shifted(row) })).sort((a, b) => b.row.score - a.row.score);
  const kept = [];
  for (const candidate of order.slice(0, MAX_CANDIDATES)) {
    const rivals = kept.filter((better) => better.row.classId === candidate.row.classId);
    if (!rivals.some((better) => overlap(better.corners, candidate.corners) > threshold)) kept.push(candidate);
    if (kept.length === maxDet) break;
  }
  return kept.map((entry) => entry.row);
}

function shifted(row) {
  return row.box.map((side) => side + (row.classId % 128) * CLASS_SHIFT);
}

/** Intersection over union in single precision; nought where both boxes are empty. */
function overlap(a, b) {
  const round = Math.fround;
  const width = Math.max(round(Math.min(a[2], b[2]) - Math.max(a[0], b[0])), 0);
  const height = Math.max(round(Math.min(a[3], b[3]) - Math.max(a[1], b[1])), 0);
  const common = round(width * height);
  const union = round(round(area(a) + area(b)) - common);
  return union > 0 ? round(common / union) : 0;
}

function area(box) {
  return Math.fround(Math.fround(box[2] - box[0]) * Math.fround(box[3] - box[1]));
}

/** A box from pixels of the frame to pixels of the photograph, clipped to it. */
function boxToImage(box, geometry) {
  const ratio = ratios(geometry);
  return box.map((side, i) => {
    const axis = 1 - (i % 2);
    const offset = axis === 0 ? geometry.top : geometry.left;
    const moved = Math.fround(Math.fround(side - offset) / Math.fround(ratio[axis]));
    return clamp(moved, 0, geometry.original[axis]);
  });
}

// ---- masks: coefficients times prototypes, interpolated in the box only. A mask is a bitmap with its place in the
// image: { x, y, width, height, bitmap }, one byte a pixel, rows from the top.

/**
 * Linear interpolation along an axis: pixel i is lower[i] · (1 - fraction[i]) + upper[i] · fraction[i].
 *
 * The point p, in pixels, lies at p · scale + offset, in cells; centres are at halves, edges clamped.
 */
function sampleAxis(pixels, scale, offset, cells) {
  const axis = { lower: new Int32Array(pixels), upper: new Int32Array(pixels), fraction: new Float32Array(pixels) };
  for (let i = 0; i < pixels; i++) {
    const position = clamp((i + 0.5) * scale + (offset - 0.5), 0, cells - 1);
    axis.lower[i] = Math.trunc(position);
    axis.upper[i] = Math.min(axis.lower[i] + 1, cells - 1);
    axis.fraction[i] = position - axis.lower[i];
  }
  return axis;
}

/** The pixels from `start` to `stop` of an axis, its cells counted from `first` and clamped to `count`. */
function axisPart(axis, start, stop, first, count) {
  const moved = (side) => side.subarray(start, stop).map((cell) => clamp(cell - first, 0, count - 1));
  return { lower: moved(axis.lower), upper: moved(axis.upper), fraction: axis.fraction.subarray(start, stop) };
}

/** Where the bilinear interpolation of `grid`, rows of `columns` cells, is above 0: a byte a pixel. */
function bilinearPositive(grid, columns, ys, xs) {
  const round = Math.fround;
  const [height, width] = [ys.lower.length, xs.lower.length];
  const bitmap = new Uint8Array(width * height);
  const kept = new Map();
  const wide = (row) => {
    if (!kept.has(row)) {
      const values = new Float32Array(width);
      for (let x = 0; x < width; x++) {
        const [low, high] = [grid[row * columns + xs.lower[x]], grid[row * columns + xs.upper[x]]];
        values[x] = round(low * round(1 - xs.fraction[x])) + round(high * xs.fraction[x]);
      }
      kept.set(row, values);
    }
    return kept.get(row);
  };
  for (let y = 0; y < height; y++) {
    for (const row of kept.keys()) if (row < ys.lower[y]) kept.delete(row);
    const [above, below, share] = [wide(ys.lower[y]), wide(ys.upper[y]), ys.fraction[y]];
    const rest = round(1 - share);
    for (let x = 0; x < width; x++) {
      bitmap[y * width + x] = round(above[x] * rest) + round(below[x] * share) > 0 ? 1 : 0;
    }
  }
  return bitmap;
}

function emptyMask() {
  return { x: 0, y: 0, width: 0, height: 0, bitmap: new Uint8Array(0) };
}

/** The indices i below `limit` with low <= i < high, as start and stop. */
function span(low, high, limit) {
  return [low, high].map((side) => clamp(Math.ceil(side), 0, limit));
}

/**
 * A detection's mask on the letterboxed frame.
 *
 * @param coefficients its 32.
 * @param prototypes `values` [height, width, 32], and their `height` and `width`.
 * @param box x1, y1, x2, y2 in pixels of the frame.
 */
function frameMask(coefficients, prototypes, box, size) {
  const [ys, xs] = [0, 1].map((axis) => {
    const cells = axis === 0 ? prototypes.height : prototypes.width;
    return sampleAxis(size[axis], cells / size[axis], 0, cells);
  });
  const [x0, x1] = span(box[0], box[2], size[1]);
  const [y0, y1] = span(box[1], box[3], size[0]);
  if (x0 >= x1 || y0 >= y1) return emptyMask();
  const [left, top] = [xs.lower[x0], ys.lower[y0]];
  const columns = xs.upper[x1 - 1] + 1 - left;
  const rows = ys.upper[y1 - 1] + 1 - top;
  const grid = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const start = ((top + row) * prototypes.width + left + column) * coefficients.length;
      let sum = 0;
      for (let k = 0; k < coefficients.length; k++) sum += coefficients[k] * prototypes.values[start + k];
      grid[row * columns + column] = sum;
    }
  }
  const down = axisPart(ys, y0, y1, top, rows);
  const across = axisPart(xs, x0, x1, left, columns);
  return { x: x0, y: y0, width: x1 - x0, height: y1 - y0, bitmap: bilinearPositive(grid, columns, down, across) };
}

/**
 * The part of a finished mask that its box encloses; beyond it there is nothing.
 *
 * @param masks `values` [height, width, count], above 0 where a mask is, and their `height`, `width` and `count`.
 * @param index which of them.
 * @param box x1, y1, x2, y2 in pixels of the frame.
 */
function cutMask(masks, index, box) {
  const [x0, x1] = span(box[0], box[2], masks.width);
  const [y0, y1] = span(box[1], box[3], masks.height);
  if (x0 >= x1 || y0 >= y1) return emptyMask();
  const width = x1 - x0;
  const bitmap = new Uint8Array(width * (y1 - y0));
  for (let i = 0; i < bitmap.length; i++) {
    const cell = (y0 + Math.floor(i / width)) * masks.width + x0 + (i % width);
    bitmap[i] = masks.values[cell * masks.count + index] > 0 ? 1 : 0;
  }
  return { x: x0, y: y0, width, height: y1 - y0, bitmap };
}

/** A mask of the frame on the photograph: interpolated bilinearly, cut at one half, without the padding. */
function imageMask(mask, geometry) {
  if (!mask.bitmap.length) return emptyMask();
  const ratio = ratios(geometry);
  const ys = sampleAxis(geometry.original[0], ratio[0], geometry.top, geometry.size[0]);
  const xs = sampleAxis(geometry.original[1], ratio[1], geometry.left, geometry.size[1]);
  // The pixels that read any cell of the region.
  const [x0, x1] = [firstAtLeast(xs.upper, mask.x), firstAtLeast(xs.lower, mask.x + mask.width)];
  const [y0, y1] = [firstAtLeast(ys.upper, mask.y), firstAtLeast(ys.lower, mask.y + mask.height)];
  if (x0 >= x1 || y0 >= y1) return emptyMask();
  // A border of background around the region stands for all that lies beyond it.
  const [columns, rows] = [mask.width + 2, mask.height + 2];
  const grid = new Float32Array(rows * columns).fill(-0.5);
  for (let y = 0; y < mask.height; y++) {
    for (let x = 0; x < mask.width; x++) grid[(y + 1) * columns + x + 1] += mask.bitmap[y * mask.width + x];
  }
  const down = axisPart(ys, y0, y1, mask.y - 1, rows);
  const across = axisPart(xs, x0, x1, mask.x - 1, columns);
  const bitmap = bilinearPositive(grid, columns, down, across);
  return trimmed({ x: x0, y: y0, width: x1 - x0, height: y1 - y0, bitmap });
}

/** The first index of an ascending array whose value is at least `value`; its length where there is none. */
function firstAtLeast(values, value) {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The same mask in the smallest region that holds it. */
function trimmed(mask) {
  let [left, right, top, bottom] = [mask.width, 0, mask.height, 0];
  for (let y = 0; y < mask.height; y++) {
    const row = mask.bitmap.subarray(y * mask.width, (y + 1) * mask.width);
    const first = row.indexOf(1);
    if (first < 0) continue;
    left = Math.min(left, first);
    right = Math.max(right, row.lastIndexOf(1) + 1);
    top = Math.min(top, y);
    bottom = y + 1;
  }
  if (left >= right) return emptyMask();
  const width = right - left;
  const bitmap = new Uint8Array(width * (bottom - top));
  for (let y = top; y < bottom; y++) {
    bitmap.set(mask.bitmap.subarray(y * mask.width + left, y * mask.width + right), (y - top) * width);
  }
  return { x: mask.x + left, y: mask.y + top, width, height: bottom - top, bitmap };
}

/** Pixels in a mask. */
function maskArea(mask) {
  let sum = 0;
  for (let i = 0; i < mask.bitmap.length; i++) sum += mask.bitmap[i];
  return sum;
}

/** COCO's uncompressed run lengths on an image [height, width]: down the columns, background first. */
function runLengths(mask, height, width) {
  const runs = [];
  let [value, start] = [0, 0];
  const turn = (at, next) => {
    runs.push(at - start);
    [value, start] = [next, at];
  };
  for (let x = 0; x < mask.width; x++) {
    const head = (mask.x + x) * height + mask.y;
    for (let y = 0; y < mask.height; y++) {
      const next = mask.bitmap[y * mask.width + x];
      if (next !== value) turn(head + y, next);
    }
    // Below the region there is background, unless the next column's first pixel follows at once.
    const end = head + mask.height;
    if (value === 1 && (mask.height < height || x === mask.width - 1) && end < height * width) turn(end, 0);
  }
  if (start < height * width) runs.push(height * width - start);
  return runs;
}

// ---- outlines

// The eight neighbours of a pixel as steps (x, y), clockwise on the screen from the left one on.
const STEPS = [[-1, 0], [-1, -1], [0, -1], [1, -1], [1, 0], [1, 1], [0, 1], [-1, 1]];
const RIGHT = 4;

// What border pixels are marked as, once they have been followed.
const BORDER = 2;
const RIGHT_BORDER = -2;

/**
 * Outer outlines of a mask, largest first, each a flat list x, y, x, y, … of pixel indices in the image.
 *
 * Borders are followed as Suzuki and Abe have it (CVGIP 30, 1985, algorithm 2), those of parts inside of holes left
 * out; only the ends of straight stretches are kept.
 */
function outlines(mask) {
  if (!mask.bitmap.length) return [];
  // With a border of background of one pixel around.
  const width = mask.width + 2;
  const pixels = new Int8Array(width * (mask.height + 2));
  for (let y = 0; y < mask.height; y++) {
    pixels.set(mask.bitmap.subarray(y * mask.width, (y + 1) * mask.width), (y + 1) * width + 1);
  }
  const neighbours = STEPS.map(([x, y]) => y * width + x);
  const found = [];
  for (let y = 1; y <= mask.height; y++) {
    let inside = false;
    for (let at = y * width + 1; at < (y + 1) * width; at++) {
      if (pixels[at] === 1 && pixels[at - 1] === 0 && !inside) found.push(followBorder(pixels, at, neighbours));
      if (pixels[at] === BORDER) inside = true;
      else if (pixels[at] === RIGHT_BORDER) inside = false;
    }
  }
  const place = (at) => [(at % width) - 1 + mask.x, Math.floor(at / width) - 1 + mask.y];
  const polygons = found.map((border) => corners(border.map(place)));
  const keyed = polygons.map((points) => ({ points, area: polygonArea(points) }));
  keyed.sort((a, b) => b.area - a.area || a.points[0][1] - b.points[0][1] || a.points[0][0] - b.points[0][0]);
  return keyed.map((entry) => entry.points.flat());
}

/**
 * The pixels along a part's outer border, counter-clockwise on the screen, from its first one in reading order. They
 * are marked: as the right one where what lies to their right is outside.
 */
function followBorder(pixels, start, neighbours) {
  let direction = neighbours.findIndex((step) => pixels[start + step] !== 0);
  if (direction < 0) {
    pixels[start] = RIGHT_BORDER;
    return [start];
  }
  const last = start + neighbours[direction];
  const border = [];
  let at = start;
  while (true) {
    border.push(at);
    // Counter-clockwise from the neighbour that we came from.
    let turn = direction;
    let outsideRight = false;
    do {
      turn = (turn + 7) % 8;
      if (turn === RIGHT && pixels[at + 1] === 0) outsideRight = true;
    } while (pixels[at + neighbours[turn]] === 0);
    if (outsideRight) pixels[at] = RIGHT_BORDER;
    else if (pixels[at] === 1) pixels[at] = BORDER;
    const next = at + neighbours[turn];
    if (next === start && at === last) return border;
    [at, direction] = [next, (turn + 4) % 8];
  }
}

/** A closed outline of neighbouring pixels without those in the middle of straight stretches. */
function corners(points) {
  const count = points.length;
  const step = (i, axis) => points[(i + 1) % count][axis] - points[i % count][axis];
  const kept = points.filter((_, i) => [0, 1].some((axis) => step(i + count - 1, axis) !== step(i, axis)));
  return kept.length ? kept : points.slice(0, 1);
}

function polygonArea(points) {
  let twice = 0;
  points.forEach(([x, y], i) => {
    const [nextX, nextY] = points[(i + 1) % points.length];
    twice += x * nextY - nextX * y;
  });
  return Math.abs(twice) / 2;
}

// ---- the result

/**
 * What was found on a photograph, in the form of `segc predict --save-json`.
 *
 * @param found rows of `detections`.
 * @param maskOf gives a row's mask on the frame. One is made at a time: all of a large photograph's may be too much.
 */
function jsonRecord(found, image, geometry, names, maskOf) {
  const [height, width] = geometry.original;
  const rows = found.map((row) => {
    const mask = imageMask(maskOf(row), geometry);
    return {
      class_id: row.classId,
      class: names[row.classId],
      score: rounded(row.score, 5),
      box: Array.from(boxToImage(row.box, geometry), (side) => rounded(side, 2)),
      area: maskArea(mask),
      polygons: outlines(mask),
      mask: { size: [height, width], counts: runLengths(mask, height, width) },
    };
  });
  return { image, height, width, detections: rows };
}
